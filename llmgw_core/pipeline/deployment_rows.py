"""What can be said of the deployments of a running gateway, ready to be written as JSON.

Read when somebody asks; nothing is counted for it, and no address is in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.pipeline.switchboard import DEPLOYMENT_OFF, MODEL_OFF
from llmgw_core.routing.breaker import BreakerState
from llmgw_core.routing.health import BREAKER
from llmgw_core.routing.readiness import LOAD, PROBE
from llmgw_core.routing.rest import BUSY, RATE_LIMITED, REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.routing.balance import Member
    from llmgw_core.routing.state import DeploymentState, Obstacle, RoutingMemory

_WORDS: Final = {
    DEPLOYMENT_OFF: "switched off",
    MODEL_OFF: "switched off",
    BREAKER: "ejected",
    PROBE: "not ready",
    LOAD: "busy",
    RATE_LIMITED: "cooling",
    BUSY: "cooling",
    REFUSED: "credentials refused",
}
"""The word for a deployment in whose way an obstacle of this kind stands."""


class LoadReport(msgspec.Struct, frozen=True):
    """What the engine has said of itself, `age` seconds ago. `kv_use`: share of its KV cache, 0 to
    1, None when it does not tell."""

    running: int
    waiting: int
    kv_use: float | None
    age: float


class DeploymentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment. `state`: `healthy`, `ramping`, `at cap`, `cooling` (429, or asked to be left
    alone), `credentials refused`, `busy`, `half-open`, `ejected`, `not ready`, `switched off`;
    `reason` says why, and `seconds` until when, None where nobody knows. `reasons` has everything
    that stands in its way.

    `in_flight` attempts run on it, with `tokens_in_flight`. `first_content` is the time that
    streams take to their first content, `complete` what other replies take, in seconds, as routing
    sees them now; None while nothing is known. `ejections` counts since it is known, `share` is the
    part of its turns that it takes while it ramps up."""

    deployment: str
    model: str
    backend: str
    zone: str
    weight: int
    priority: int
    state: str
    reason: str = ""
    seconds: float | None = None
    reasons: tuple[str, ...] = ()
    in_flight: int = 0
    tokens_in_flight: int = 0
    first_content: float | None = None
    complete: float | None = None
    ejections: int = 0
    share: float = 1.0
    load: LoadReport | None = None


def deployment_rows(members: Iterable[Member], memory: RoutingMemory) -> list[DeploymentRow]:
    """All of them, in the order of `members`."""
    now = memory.clock()
    return [_row(member, memory, now) for member in members]


def _row(member: Member, memory: RoutingMemory, now: float) -> DeploymentRow:
    deployment, state = member.deployment, member.state
    standing = [each for each in state.obstacles.values() if each.stands(now)]
    standing.sort(key=lambda each: (not each.hard, -each.until))
    word, reason, seconds = _judged(member, standing, now)
    share = memory.ramp.share(state.since, now) if state.ramping else 1.0
    if word == "healthy" and share < 1.0:
        word, reason = "ramping", f"it gets {share:.0%} of its turns"
    return DeploymentRow(
        deployment=deployment.id,
        model=deployment.model,
        backend=deployment.backend,
        zone=deployment.zone,
        weight=member.weight,
        priority=deployment.priority,
        state=word,
        reason=reason,
        seconds=seconds,
        reasons=tuple(each.reason for each in standing),
        in_flight=state.in_flight,
        tokens_in_flight=state.tokens_in_flight,
        first_content=state.first_content.seconds,
        complete=state.complete.seconds,
        ejections=0 if state.breaker is None else state.breaker.ejections,
        share=share,
        load=_load(state, now),
    )


def _judged(member: Member, standing: list[Obstacle], now: float) -> tuple[str, str, float | None]:
    if standing:
        first = standing[0]
        word = _WORDS.get(first.kind, first.kind)
        breaker = member.state.breaker
        if first.kind == BREAKER and breaker is not None:
            word = "half-open" if breaker.state is BreakerState.HALF_OPEN else word
        return word, first.reason, None if math.isinf(first.until) else first.until - now
    full = None if member.caps is None else member.caps.full(1)
    if full is not None:
        return "at cap", full[1], full[2]
    return "healthy", "", None


def _load(state: DeploymentState, now: float) -> LoadReport | None:
    load = state.load
    if load is None:
        return None
    return LoadReport(load.running, load.waiting, load.kv_use, now - load.polled_at)
