"""What is remembered about deployments between calls: how busy they are, how fast, and what
stands in the way of using them.

A state belongs to a deployment's `identity`, so a reload keeps it as long as the deployment is
the same to its backend. Whoever finds something wrong with a deployment (circuit breaker,
cool-down, switches, probes) puts an `Obstacle` of its own kind into the memory and takes it
away again; routing asks nothing but the memory. While nobody has put anything there, `troubled`
is empty and a call does not look any further.

Who is new, or was ill and is well again, is troubled too, in a mild way: for some seconds it is a
candidate for a growing share of the calls only (see `Ramp`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.domain.ramp import Ramp
from llmgw_core.routing.latency import PeakEwma

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.load import EngineLoad
    from llmgw_core.routing.breaker import Breaker
    from llmgw_core.routing.key_ring import KeyRing
    from llmgw_core.routing.retry_budget import RetryBudget

ILLNESSES: Final = frozenset({"breaker", "probe"})
"""The kinds of obstacles after which a deployment ramps up. Who was throttled or switched off was
not ill."""
_SWEEP_SECONDS: Final = 1.0


class Obstacle(msgspec.Struct, frozen=True):
    """Why a deployment is no candidate now. `reason` is a sentence for operators; `until` is in
    seconds of the memory's clock. One that is not `hard` gives way when nobody else is left:
    better the least bad than nobody. `over` says whether it has ended before its time."""

    kind: str
    reason: str
    until: float = math.inf
    hard: bool = False
    over: Callable[[], bool] | None = None

    def stands(self, now: float) -> bool:
        """Whether it still is in the way."""
        return self.until > now and (self.over is None or not self.over())


class DeploymentState:
    """What is remembered about one deployment. `in_flight` are the attempts that run on it,
    `tokens_in_flight` what they have reserved. `load` is the engine's last report of itself, if
    there is one that is not too old, and `others` are the requests in it that are not ours.
    `first_content` is the time that streams take to their first content, `complete` what other
    replies take. `since` is when it became a candidate, or one again; `ramping` says that it has
    not reached all calls yet, `turn` what is saved up of its next one. `breaker` is None when there
    is none. `credit` belongs to whoever takes turns, see `strategies.round_robin`. `keys` are its
    credentials, if something was found out about them or there are several."""

    __slots__ = (
        "breaker",
        "complete",
        "credit",
        "first_content",
        "in_flight",
        "keys",
        "load",
        "obstacles",
        "others",
        "ramping",
        "ready",
        "since",
        "tokens_in_flight",
        "turn",
    )

    def __init__(self, since: float) -> None:
        self.in_flight = 0
        self.tokens_in_flight = 0
        self.others = 0
        self.first_content = PeakEwma()
        self.complete = PeakEwma()
        self.since = since
        self.ramping = False
        self.turn = 0.0
        self.credit = 0
        self.obstacles: dict[str, Obstacle] = {}
        self.breaker: Breaker | None = None
        self.ready: bool | None = None
        self.load: EngineLoad | None = None
        self.keys: KeyRing | None = None

    @property
    def latency(self) -> float:
        """Expected seconds to the first content of a stream; 0 when nothing is known."""
        return self.first_content.seconds or 0.0


class RoutingMemory:
    """The states of all deployments; one per gateway."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ramp = Ramp()
        self.states: dict[object, DeploymentState] = {}
        self.troubled: dict[object, DeploymentState] = {}
        """Those in whose way something stands, perhaps no longer, and those that ramp up."""
        self.retry_budgets: dict[str, RetryBudget] = {}
        """By the name of the model, those that were needed."""
        self._begun = False
        self._coming: dict[object, DeploymentState] = {}
        self._swept = -math.inf

    def adopt(self, deployments: Iterable[Deployment]) -> None:
        """Begin to remember those of them that are new; they get no calls before `begin`."""
        for deployment in deployments:
            if deployment.identity not in self.states:
                state = self.states[deployment.identity] = DeploymentState(self.clock())
                self._coming[deployment.identity] = state

    def begin(self) -> None:
        """What was adopted gets calls from now on. The first ones ramp up from nothing: there is
        nobody else yet."""
        coming, self._coming = self._coming, {}
        if self._begun:
            for identity, state in coming.items():
                self._begin_ramp(identity, state, self.clock())
        self._begun = True

    def forget_turns(self, deployments: Iterable[Deployment]) -> None:
        """Their weights have changed: whose turn it is begins anew."""
        for deployment in deployments:
            state = self.states.get(deployment.identity)
            if state is not None:
                state.credit = 0

    def retain(self, identities: Collection[object]) -> None:
        """Forget all others than these."""
        for identity in self.states.keys() - identities:
            del self.states[identity]
            self.troubled.pop(identity, None)
            self._coming.pop(identity, None)

    def put(self, deployment: Deployment, obstacle: Obstacle) -> None:
        """`obstacle` is in the way from now on; it replaces one of the same kind."""
        state = self.states.get(deployment.identity)
        if state is not None:
            state.obstacles[obstacle.kind] = obstacle
            self.troubled[deployment.identity] = state

    def clear(self, deployment: Deployment, kind: str) -> None:
        """Nothing of this kind is in the way any more. Who was ill ramps up."""
        state = self.states.get(deployment.identity)
        if state is not None and state.obstacles.pop(kind, None) is not None:
            if kind in ILLNESSES:
                self._begin_ramp(deployment.identity, state, self.clock())
            self._settle(deployment.identity, state)

    def obstacle(self, deployment: Deployment, now: float) -> Obstacle | None:
        """What is in the way at `now`: a hard one first, else the longest."""
        state = self.troubled.get(deployment.identity)
        return None if state is None else standing(state, now)

    def sweep(self, now: float) -> None:
        """Let go of those that are plainly healthy again. Looks once a second."""
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for identity, state in tuple(self.troubled.items()):
            for expired in [each for each in state.obstacles.values() if not each.stands(now)]:
                del state.obstacles[expired.kind]
                if expired.kind in ILLNESSES:
                    self._begin_ramp(identity, state, expired.until)
            if state.ramping and self.ramp.share(state.since, now) >= 1.0:
                state.ramping = False
            self._settle(identity, state)

    def _begin_ramp(self, identity: object, state: DeploymentState, since: float) -> None:
        state.since = since
        if self.ramp.seconds > 0:
            state.ramping = True
            state.turn = 0.0
            self.troubled[identity] = state

    def _settle(self, identity: object, state: DeploymentState) -> None:
        if not state.obstacles and not state.ramping:
            self.troubled.pop(identity, None)


def standing(state: DeploymentState, now: float) -> Obstacle | None:
    """The obstacle of `state` at `now`: a hard one first, else the longest."""
    if not state.obstacles:
        return None
    found = [each for each in state.obstacles.values() if each.stands(now)]
    return max(found, key=lambda each: (each.hard, each.until), default=None)
