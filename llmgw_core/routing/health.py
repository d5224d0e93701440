"""The health of all deployments: their breakers, and what these put into the routing memory.

A breaker lives as long as the state of its deployment, so a reload keeps it; what a new
configuration says about it holds from the swap on. Whoever wants to know of changes is told.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.domain.health import HealthChange
from llmgw_core.routing.breaker import OPEN, Breaker, Pool
from llmgw_core.routing.state import Obstacle

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.domain.failure import FailureKind
    from llmgw_core.routing.breaker import BreakerChange
    from llmgw_core.routing.state import DeploymentState, RoutingMemory

log = logging.getLogger("llmgw.health")

SICKNESS: Final[frozenset[FailureKind]] = frozenset(
    {"unavailable", "connect", "timeout", "cut", "protocol", "overloaded", "server"}
)
"""Failures that speak against a deployment. The others are the business of whoever asked
(`client` and its like), of a credential, or of a limit (429)."""

BREAKER: Final = "breaker"
"""The kind of the obstacles that breakers put into the memory."""


class Health:
    """One per gateway. `tell` gets every change; it must not raise. `ejections` counts them by
    the ids of deployments."""

    def __init__(
        self,
        memory: RoutingMemory,
        wall_clock_ns: Callable[[], int],
        tell: Callable[[HealthChange], None] = lambda change: None,
    ) -> None:
        self._memory = memory
        self._wall_clock_ns = wall_clock_ns
        self.tell = tell
        self._pools: dict[str, Pool] = {}
        self.ejections: dict[str, int] = {}

    def configure(self, models: Collection[Model]) -> None:
        """From now on these are in force: give a breaker to whoever shall have one. Health is
        kept. The memory knows their deployments."""
        for model in models:
            pool = self._pools.setdefault(model.name, Pool(0))
            pool.size = len(model.deployments)
            for deployment in model.deployments:
                self._configure(deployment, self._memory.states[deployment.identity], pool)
        for name in self._pools.keys() - {model.name for model in models}:
            del self._pools[name]

    def retain(self, identities: Collection[object]) -> None:
        """The deployments with other identities are gone; before the memory forgets them."""
        for identity in self._memory.states.keys() - identities:
            breaker = self._memory.states[identity].breaker
            if breaker is not None:
                breaker.release()

    def states(self, models: Iterable[Model]) -> Iterator[tuple[Deployment, DeploymentState]]:
        """What is remembered about the deployments of these models."""
        for model in models:
            for deployment in model.deployments:
                yield deployment, self._memory.states[deployment.identity]

    def changed(self, change: HealthChange) -> None:
        """Date a change, log it and tell of it."""
        worse = change.after in {"open", "not_ready"}
        log.log(
            logging.WARNING if worse else logging.INFO,
            "deployment=%s %s: %s -> %s%s: %s",
            change.deployment,
            change.part,
            change.before,
            change.after,
            f" for {change.seconds:g} s" if change.seconds else "",
            change.reason,
        )
        self.tell(msgspec.structs.replace(change, at=self._wall_clock_ns()))

    def _made(self, deployment: Deployment, pool: Pool) -> Breaker:
        watch = partial(self._moved, deployment)
        return Breaker(deployment.rules.breaker, pool, self._memory.clock(), watch)

    def _configure(self, deployment: Deployment, state: DeploymentState, pool: Pool) -> None:
        breaker, settings = state.breaker, deployment.rules.breaker
        if breaker is None:
            if settings.enabled:
                state.breaker = self._made(deployment, pool)
        elif settings.enabled:
            breaker.configure(settings, pool)
        else:
            breaker.release()
            state.breaker = None
            self._memory.clear(deployment, BREAKER)

    def _moved(
        self, deployment: Deployment, breaker: Breaker, change: BreakerChange | None
    ) -> None:
        """Put what the breaker now says into the memory."""
        memory = self._memory
        if breaker.state is OPEN:
            obstacle = Obstacle(BREAKER, f"ejected: {breaker.reason}", until=breaker.until)
            memory.put(deployment, obstacle)
        elif breaker.admits(memory.clock()):
            memory.clear(deployment, BREAKER)
        else:
            memory.put(deployment, Obstacle(BREAKER, f"on trial: {breaker.reason}"))
        if change is None:
            return
        if change.after is OPEN:
            self.ejections[deployment.id] = self.ejections.get(deployment.id, 0) + 1
        self.changed(
            HealthChange(
                deployment.id,
                "breaker",
                change.before.value,
                change.after.value,
                change.reason,
                change.seconds,
            )
        )
