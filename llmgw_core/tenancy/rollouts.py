"""The use cases of canary rollouts: start, step, abort, promote.

A rollout gives a share of the callers of an alias another model. Every change is one transaction
with its audit entry; what makes no sense is refused with a sentence. All methods raise
`TenancyError` (or its subclasses), and `StoreUnavailable`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmgw_core.routing.rollouts import Rollout
from llmgw_core.store import rollout_queries as queries
from llmgw_core.tenancy.changes import change
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.config.schema import Config
    from llmgw_core.config.schema_aliases import AliasConfig
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.changes import Change
    from llmgw_core.tenancy.records import AuditEntry

AUTOMATIC = "gateway"
"""Who the audit log says has taken out a canary that was worse than its baseline."""
_LONGEST_REASON = 500


class Rollouts:
    """See the module. `config` gives the configuration that the names are of; `clock` seconds
    since the epoch. `changed` is called with the audit entry of every change that is in the
    database, and then `applied` is awaited, which brings it into force in this process."""

    def __init__(
        self,
        store: Store,
        config: Callable[[], Config],
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[AuditEntry], None] | None = None,
        applied: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._changed = changed
        self._applied = applied

    async def start(
        self, alias: str, model: str, *, share: float | None = None, actor: str
    ) -> Rollout:
        """Give `share` percent of the callers of `alias` `model`; by default the first step of its
        rules."""
        config = self._config()
        section = self._alias(alias)
        _check_canary(alias, section, model, config)
        first = _share(section.canary.steps[0] if share is None else share)
        async with change(self._store, actor, self._clock(), self._changed) as doing:
            last = await _last(doing.connection, alias)
            if last is not None and last.state == "running":
                raise Conflict(
                    f"`{last.model}` is the canary of `{alias}` already, with {last.share:g} %;"
                    " step, promote or abort it first."
                )
            if last is not None and last.holds(section.variants):
                raise Conflict(
                    f"`{last.model}` was promoted and is all of `{alias}`: make it the variant in"
                    " the configuration first, or abort it."
                )
            rollout = Rollout(
                alias, model, first, "running", "", section.variants, actor, doing.now, doing.now
            )
            await _put(doing, "canary_start", rollout)
        return await self._applying(rollout)

    async def step(self, alias: str, *, share: float | None = None, actor: str) -> Rollout:
        """Change the share: to `share` percent, by default to the next step of the rules."""
        section = self._alias(alias)
        async with change(self._store, actor, self._clock(), self._changed) as doing:
            last = await _running(doing.connection, alias)
            _check_canary(alias, section, last.model, self._config())
            new = _next(alias, last, section) if share is None else _share(share)
            if new == last.share:
                raise TenancyError(f"`{last.model}` has {last.share:g} % of `{alias}` already.")
            rollout = replace(last, share=new, actor=actor, changed=doing.now)
            await _put(doing, "canary_step", rollout)
        return await self._applying(rollout)

    async def promote(self, alias: str, *, actor: str) -> Rollout:
        """Give everybody the canary, until the configuration says something else."""
        section = self._alias(alias)
        async with change(self._store, actor, self._clock(), self._changed) as doing:
            last = await _running(doing.connection, alias)
            _check_canary(alias, section, last.model, self._config())
            rollout = replace(
                last,
                state="promoted",
                share=100.0,
                base=section.variants,
                actor=actor,
                changed=doing.now,
            )
            await _put(doing, "canary_promote", rollout)
        return await self._applying(rollout)

    async def abort(self, alias: str, *, reason: str = "", actor: str) -> Rollout:
        """Give nobody the canary any more; takes a promotion back as well. Also for an alias that
        the configuration does not have any more."""
        if len(reason) > _LONGEST_REASON or not reason.isprintable():
            raise TenancyError(f"A reason has at most {_LONGEST_REASON} printable characters.")
        async with change(self._store, actor, self._clock(), self._changed) as doing:
            last = await _last(doing.connection, alias)
            if last is None:
                raise NotFound(f"There has been no canary of `{alias[:100]}`.")
            if last.state == "aborted":
                raise Conflict(f"The canary `{last.model}` of `{alias}` is out already.")
            rollout = await _abort(doing, last, reason)
        return await self._applying(rollout)

    async def take_out(self, ended: Rollout) -> None:
        """Write down that the gateway itself has taken a canary out, unless somebody has changed
        something meanwhile."""
        async with change(self._store, AUTOMATIC, self._clock(), self._changed) as doing:
            last = await _last(doing.connection, ended.alias)
            if last is not None and last.state == "running" and last.started == ended.started:
                await _abort(doing, last, ended.reason)

    async def find_all(self) -> list[Rollout]:
        """The last rollout of every alias that has had one, by alias."""
        async with self._store.connect() as connection:
            return list(await queries.all_rollouts(connection))

    def _alias(self, name: str) -> AliasConfig:
        config = self._config()
        alias = config.aliases.get(name)
        if alias is None:
            raise NotFound(_no_alias(name, config))
        return alias

    async def _applying(self, rollout: Rollout) -> Rollout:
        if self._applied is not None:
            await self._applied()
        return rollout


def _no_alias(name: str, config: Config) -> str:
    if name in config.models:
        return (
            f"`{name}` is a model and not an alias. A canary takes a share of an alias: put one"
            f" that leads to `{name}` under `aliases`, and let callers ask for that."
        )
    return f"There is no alias `{name[:100]}`{_there_are(config.aliases)}"


def _there_are(names: Mapping[str, object]) -> str:
    listed = ", ".join(f"`{name}`" for name in sorted(names))
    return f"; there are {listed}." if listed else "; there are none."


def _check_canary(alias: str, section: AliasConfig, model: str, config: Config) -> None:
    """Raise `TenancyError` when `model` cannot be a canary of `alias`."""
    if model in config.aliases:
        raise TenancyError(f"`{model}` is an alias itself; name the model that it leads to.")
    new = config.models.get(model)
    if new is None:
        raise NotFound(f"There is no model `{model[:100]}`{_there_are(config.models)}")
    if model in {variant.model for variant in section.variants}:
        raise TenancyError(
            f"`{alias}` leads to `{model}` already; change its weight in the configuration."
        )
    kinds = {config.models[variant.model].kind for variant in section.variants}
    if "embedding" in kinds:
        raise TenancyError(
            f"`{alias}` gives embeddings: vectors of two models cannot be compared, so it changes"
            " for everybody or for nobody."
        )
    if new.kind not in kinds:
        raise TenancyError(f"`{model}` is a model of kind {new.kind} and cannot serve `{alias}`.")
    if new.life.state == "retired":
        raise TenancyError(f"The model `{model}` is retired and serves nobody.")


def _share(percent: float) -> float:
    if not 0 < percent < 100:
        raise TenancyError(
            "The share is a number of percent greater than 0 and less than 100; `promote` gives"
            " everybody the canary, `abort` nobody."
        )
    return float(percent)


def _next(alias: str, last: Rollout, section: AliasConfig) -> float:
    for step in section.canary.steps:
        if step > last.share:
            return step
    raise TenancyError(
        f"{last.share:g} % was the last step of `{alias}`; promote it, or give a share."
    )


async def _last(connection: AsyncConnection, alias: str) -> Rollout | None:
    found = await queries.all_rollouts(connection)
    return next((rollout for rollout in found if rollout.alias == alias), None)


async def _running(connection: AsyncConnection, alias: str) -> Rollout:
    last = await _last(connection, alias)
    if last is None or last.state != "running":
        ended = "" if last is None else f" The last one, `{last.model}`, was {last.state}."
        raise Conflict(f"No canary of `{alias}` is under way; start one.{ended}")
    return last


async def _abort(doing: Change, last: Rollout, reason: str) -> Rollout:
    rollout = replace(last, state="aborted", reason=reason, actor=doing.actor, changed=doing.now)
    await _put(doing, "canary_abort", rollout)
    return rollout


async def _put(doing: Change, action: str, rollout: Rollout) -> None:
    await queries.put_rollout(doing.connection, rollout)
    details = {"model": rollout.model, "share": rollout.share, "reason": rollout.reason}
    await doing.record(action, "alias", rollout.alias, details)
