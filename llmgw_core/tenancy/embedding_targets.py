"""An alias of embeddings keeps its model and its dimensions: vectors that somebody has stored are
of no use with those of another model, and no reply would say so.

What an alias leads to is recorded when it first is in force. A configuration that says something
else is refused until an administrator has said, with force, that it is meant.
"""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from llmgw_core.config.errors import join, raise_all
from llmgw_core.domain.alias import EmbeddingTarget
from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.store import rollout_queries as queries
from llmgw_core.tenancy.changes import change
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from llmgw_core.config.schema import Config
    from llmgw_core.store.engine import Store

log = logging.getLogger("llmgw.rollouts")


def targets_of(config: Config) -> dict[str, EmbeddingTarget]:
    """Where the aliases of embeddings lead."""
    found = {}
    for name, alias in config.aliases.items():
        model = config.models.get(alias.variants[0].model) if alias.variants else None
        if model is not None and model.kind == "embedding":
            found[name] = EmbeddingTarget(alias.variants[0].model, model.dimensions)
    return found


def changed_targets(config: Config, recorded: Mapping[str, EmbeddingTarget]) -> list[ConfigError]:
    """An error for every alias that leads to something else than recorded."""
    errors = []
    for name, target in targets_of(config).items():
        old = recorded.get(name)
        if old is not None and target.replaces(old):
            message = (
                f"the alias has led to {old} until now and would lead to {target}: vectors that"
                " callers have stored could not be compared with new ones. Give the new model an"
                f" alias of its own, or, if it is meant, run `models retarget {name} --force`."
            )
            errors.append(ConfigError(message, path=join("aliases", name)))
    return errors


class EmbeddingTargets:
    """What is recorded, as far as this process knows. `clock` gives seconds since the epoch."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, EmbeddingTarget] = {}

    @asynccontextmanager
    async def keeping(self, config: Config) -> AsyncIterator[None]:
        """While `config` is brought into force: refused at the beginning, recorded at the end.
        Raises `ConfigErrors`. While the store is down, what was read last holds."""
        wanted = targets_of(config)
        if wanted:
            await self._read()
            raise_all(changed_targets(config, self._known))
        yield
        new = {
            name: target
            for name, target in wanted.items()
            if (old := self._known.get(name)) is None
            or (old.dimensions is None and target.dimensions is not None)
        }
        if new:
            await self._record(new)

    async def retarget(self, config: Config, alias: str, *, force: bool, actor: str) -> str:
        """Accept what `config` says about `alias` in the place of what is recorded. Returns what
        was done, as a sentence. Raises `TenancyError` without `force`."""
        target = targets_of(config).get(alias)
        if target is None:
            raise NotFound(f"There is no alias `{alias[:100]}` of embeddings.")
        async with change(self._store, actor, self._clock()) as doing:
            old = (await queries.targets(doing.connection)).get(alias)
            if old is None or old == target:
                raise Conflict(f"`{alias}` leads to {target}, as is recorded.")
            if not force:
                raise TenancyError(
                    f"`{alias}` has led to {old} and would lead to {target}; vectors that callers"
                    " have stored are of no use then. If it is meant, repeat it with --force."
                )
            await queries.put_target(doing.connection, alias, target)
            details = {"target": str(target), "before": {"target": str(old)}}
            await doing.record("retarget", "alias", alias, details)
        return f"`{alias}` may lead to {target} from now on, in place of {old}."

    async def _read(self) -> None:
        try:
            async with self._store.connect() as connection:
                self._known = await queries.targets(connection)
        except StoreUnavailable:
            log.warning("the recorded targets of aliases could not be read; the last ones hold")

    async def _record(self, new: Mapping[str, EmbeddingTarget]) -> None:
        self._known |= new
        try:
            async with self._store.begin() as connection:
                for alias, target in new.items():
                    await queries.put_target(connection, alias, target)
        except StoreUnavailable:
            log.warning("where aliases of embeddings lead could not be recorded this time")
