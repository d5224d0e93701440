"""The use cases of emergency switches: switching off, back on, and sending calls elsewhere.

Every change is one transaction with its audit entry. What is switched must exist, so that nobody
believes to have stopped something that goes on under a name spelt otherwise. All methods raise
`TenancyError` (or its subclasses) with a sentence, and `StoreUnavailable`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.store import switch_queries as queries
from llmgw_core.tenancy import rules
from llmgw_core.tenancy.changes import change
from llmgw_core.tenancy.errors import NotFound, TenancyError
from llmgw_core.tenancy.records import TEAM
from llmgw_core.tenancy.references import find, organization_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.config.schema import Config
    from llmgw_core.domain.switch import Switch, SwitchKind
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.records import AuditEntry


class Switchable(msgspec.Struct, frozen=True):
    """The names of what the configuration has: ids of deployments, kinds of models by public
    name, names of plugins. Teams are in the store."""

    deployments: Collection[str]
    models: Mapping[str, str]
    plugins: Collection[str]

    @classmethod
    def of(cls, config: Config) -> Switchable:
        """What the configuration names."""
        kinds = {name: model.kind for name, model in config.models.items()}
        for name, alias in config.aliases.items():
            variants = (kinds[each.model] for each in alias.variants if each.model in kinds)
            kinds.setdefault(name, next(variants, "chat"))
        return cls(
            deployments=[
                f"{name}/{deployment.name}"
                for name, model in config.models.items()
                for deployment in model.deployments
            ],
            models=kinds,
            plugins=[plugin.name for plugin in config.plugins],
        )


class Switching:
    """See the module. `names` says what there is at the moment; `clock` gives seconds since the
    epoch. `changed` is called with the audit entry of every change that is in the database, and
    then `applied` is awaited, which brings it into force in this process. `in_use`: whether calls
    run on what the configuration may have no more."""

    def __init__(
        self,
        store: Store,
        names: Callable[[], Switchable],
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[AuditEntry], None] | None = None,
        applied: Callable[[], Awaitable[None]] | None = None,
        in_use: Callable[[SwitchKind, str], bool] = lambda *_: False,
    ) -> None:
        self._store = store
        self._names = names
        self._in_use = in_use
        self._clock = clock
        self._changed = changed
        self._applied = applied

    async def off(
        self,
        kind: SwitchKind,
        name: str,
        *,
        reason: str,
        expires_at: float | None = None,
        organization: str | None = None,
        cut: bool = False,
        actor: str,
    ) -> Switch:
        """Switch off the deployment, model, team or plugin `name` (a team by name or id, in
        `organization` if several have the name), until `expires_at` or until it is switched on.
        `cut`: end the calls as well that run on it now. It replaces a switch that is there."""
        if kind == "route":
            raise TenancyError("`route` makes a route; `on` takes it back.")
        if kind == "plugin" and cut:
            raise TenancyError(
                "A plugin takes part in calls of everybody; switching it off cuts none of them."
            )
        return await self._put(kind, name, "", reason, expires_at, organization, cut, actor)

    async def route(
        self,
        model: str,
        target: str,
        *,
        reason: str,
        expires_at: float | None = None,
        cut: bool = False,
        actor: str,
    ) -> Switch:
        """Send calls for `model` to `target`, as `off`. Whoever may not use `target` is refused;
        on the books the call asks for `model`. Routes are not followed further."""
        return await self._put("route", model, target, reason, expires_at, None, cut, actor)

    async def on(
        self, kind: SwitchKind, name: str, *, organization: str | None = None, actor: str
    ) -> Switch:
        """Take a switch back. Returns what it was. Raises `NotFound` when there is none."""
        async with change(self._store, actor, self._clock(), self._changed) as doing:
            standing = [
                switch
                for switch in await queries.current(doing.connection, doing.now)
                if switch.kind == kind
            ]
            known = {switch.name: switch for switch in standing}
            if kind == "team" and name not in known:
                labelled = [switch.name for switch in standing if switch.label == name]
                if len(labelled) == 1 and organization is None:
                    name = labelled[0]
                else:
                    name, _ = await _team(doing.connection, name, organization)
            switch = known.get(name)
            if switch is None:
                raise NotFound(f"{_THIS[kind]} '{name[:200]}' is not switched{_meant(name, known)}")
            await queries.remove(doing.connection, kind, name)
            await doing.record("switch_on", "switch", _object(kind, name), _details(switch))
        await self._apply()
        return switch

    async def find_all(self) -> list[Switch]:
        """What is in force, by kind and name."""
        async with self._store.connect() as connection:
            return list(await queries.current(connection, self._clock()))

    async def _put(
        self,
        kind: SwitchKind,
        name: str,
        target: str,
        reason: str,
        expires_at: float | None,
        organization: str | None,
        cut: bool,
        actor: str,
    ) -> Switch:
        names = self._names()
        if organization is not None and kind != "team":
            raise TenancyError("Only a team belongs to an organisation; leave it out.")
        async with change(self._store, actor, self._clock(), self._changed) as doing:
            label = ""
            if kind == "team":
                name, label = await _team(doing.connection, name, organization)
            elif not (cut and self._in_use(kind, name)) or kind == "route":
                check_name(kind, name, names, cut=cut)
            if kind == "route":
                check_target(name, target, names)
            values = {
                "kind": kind,
                "name": name,
                "target": target,
                "reason": rules.reason(reason),
                "actor": rules.actor(actor),
                "since": doing.now,
                "expires_at": rules.switch_expiry(expires_at, doing.now),
                "cut": cut,
            }
            switch = await queries.put(doing.connection, values)
            action = "route" if kind == "route" else "switch_off"
            await doing.record(action, "switch", _object(kind, name), _details(switch))
        await self._apply()
        return msgspec.structs.replace(switch, label=label)

    async def _apply(self) -> None:
        if self._applied is not None:
            await self._applied()


def check_name(kind: SwitchKind, name: str, names: Switchable, *, cut: bool = False) -> None:
    """Raise `NotFound` when the configuration has no such deployment, model or plugin. `cut`: its
    calls were to be ended, and there may be some, elsewhere or of an earlier configuration."""
    known: Collection[str] = {
        "deployment": names.deployments,
        "plugin": names.plugins,
        "model": names.models,
        "route": names.models,
    }[kind]
    if name not in known:
        what = _THIS["model" if kind == "route" else kind].lower()
        hint = _REMOVED if cut and kind in ("deployment", "model") else ""
        raise NotFound(
            f"There is no {what.removeprefix('the ')} '{name[:200]}'{_meant(name, known)}{hint}"
        )


_REMOVED: Final = (
    " If a reload has removed it while calls run on it, ask the process in which they run, over its"
    " admin pages (POST /admin/v1/switches with `cut`)."
)


def check_target(model: str, target: str, names: Switchable) -> None:
    """Raise `TenancyError` when calls for `model` cannot go to `target`."""
    check_name("model", target, names)
    if model == target:
        raise TenancyError("A model cannot be routed to itself.")
    if names.models[model] != names.models[target]:
        raise TenancyError(
            f"'{model}' is a model of kind {names.models[model]} and '{target}' one of kind"
            f" {names.models[target]}: a call for the one cannot be answered by the other."
        )
    if names.models[model] == "embedding":
        raise TenancyError(
            "Vectors of two models cannot be compared, and nobody would notice that they are mixed."
            f" Switch '{model}' off instead; callers who want '{target}' ask for it."
        )


_THIS = {
    "deployment": "The deployment",
    "model": "The model",
    "team": "The team",
    "plugin": "The plugin",
    "route": "The route of the model",
}


async def _team(
    connection: AsyncConnection, reference: str, organization: str | None
) -> tuple[str, str]:
    inside = await organization_id(connection, organization)
    row = await find(connection, TEAM, reference, inside)
    return row["id"], row["name"]


def _meant(word: str, known: Collection[str]) -> str:
    """What was probably meant: the nearest name, or what a deployment is called in its model."""
    import difflib  # noqa: PLC0415 -- only for who has mistyped

    inside = [name for name in known if name.rpartition("/")[2] == word and name != word]
    nearest = inside or difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(f'`{name}`' for name in nearest)}?" if nearest else "."


def _object(kind: SwitchKind, name: str) -> str:
    return f"{kind}:{name}"[:100]


def _details(switch: Switch) -> dict[str, object]:
    return {
        "kind": switch.kind,
        "name": switch.name,
        **({"target": switch.target} if switch.target else {}),
        "reason": switch.reason,
        "expires_at": switch.expires_at,
        "cut": switch.cut,
    }
