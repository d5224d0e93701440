"""What is remembered about deployments between calls: how busy they are, how fast, and what
stands in the way of using them.

A state belongs to a deployment's `identity`, so a reload keeps it as long as the deployment is
the same to its backend. Whoever finds something wrong with a deployment (circuit breaker,
cool-down, caps, switches, probes) puts an `Obstacle` of its own kind into the memory and takes it
away again; routing asks nothing but the memory. While nobody has put anything there, `troubled`
is empty and a call does not look any further.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.load import EngineLoad
    from llmgw_core.routing.breaker import Breaker


class Obstacle(msgspec.Struct, frozen=True):
    """Why a deployment is no candidate now. `reason` is a sentence for operators; `until` is in
    seconds of the memory's clock. One that is not `hard` gives way when nobody else is left:
    better the least bad than nobody."""

    kind: str
    reason: str
    until: float = math.inf
    hard: bool = False


class DeploymentState:
    """What is remembered about one deployment. `in_flight` are the attempts that run on it,
    `tokens_in_flight` what they have reserved; `latency` is a moving average of the seconds to the
    first content (0: nothing is known); `since` is when it became a candidate, or one again.
    `breaker` is None when there is none; `load` is the engine's last report of itself, if there is
    one that is not too old, and `others` are the requests in it that are not ours."""

    __slots__ = (
        "breaker",
        "in_flight",
        "latency",
        "load",
        "obstacles",
        "others",
        "since",
        "tokens_in_flight",
    )

    def __init__(self, since: float) -> None:
        self.in_flight = 0
        self.tokens_in_flight = 0
        self.latency = 0.0
        self.since = since
        self.obstacles: dict[str, Obstacle] = {}
        self.breaker: Breaker | None = None
        self.load: EngineLoad | None = None
        self.others = 0


class RoutingMemory:
    """The states of all deployments; one per gateway."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.states: dict[object, DeploymentState] = {}
        self.troubled: dict[object, DeploymentState] = {}
        """Those in whose way something stands, perhaps no longer."""

    def adopt(self, deployments: Iterable[Deployment]) -> None:
        """Begin to remember those of them that are new."""
        for deployment in deployments:
            if deployment.identity not in self.states:
                self.states[deployment.identity] = DeploymentState(self.clock())

    def retain(self, identities: Collection[object]) -> None:
        """Forget all others than these."""
        for identity in self.states.keys() - identities:
            del self.states[identity]
            self.troubled.pop(identity, None)

    def put(self, deployment: Deployment, obstacle: Obstacle) -> None:
        """`obstacle` is in the way from now on; it replaces one of the same kind."""
        state = self.states.get(deployment.identity)
        if state is not None:
            state.obstacles[obstacle.kind] = obstacle
            self.troubled[deployment.identity] = state

    def clear(self, deployment: Deployment, kind: str) -> None:
        """Nothing of this kind is in the way any more."""
        state = self.states.get(deployment.identity)
        if state is not None:
            state.obstacles.pop(kind, None)
            if not state.obstacles:
                self.troubled.pop(deployment.identity, None)

    def obstacle(self, deployment: Deployment, now: float) -> Obstacle | None:
        """What is in the way at `now`: a hard one first, else the longest."""
        state = self.troubled.get(deployment.identity)
        if state is None:
            return None
        standing = [each for each in state.obstacles.values() if each.until > now]
        return max(standing, key=lambda each: (each.hard, each.until), default=None)
