"""The caps of one deployment: what may be sent to it, so that it never has to say 429.

Rule of this file: whether there is room is asked without counting anything, and taken in one step
that counts in all meters or in none. Nothing awaits, so no other call comes between the question
and the taking, and a race cannot exceed a cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.limits import words
from llmgw_core.limits.meters import check
from llmgw_core.limits.port import Exceeded
from llmgw_core.limits.specs import deployment_meters

if TYPE_CHECKING:
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.limits.memory import MemoryLimiter
    from llmgw_core.limits.port import MeterSpec, MeterUnit
    from llmgw_core.limits.ticket import Ticket


class Caps:
    """Implements `routing.caps.Caps`. The counts belong to the deployment's id and survive
    reloads. A call that may need more tokens than the whole cap takes all of it: what it will
    need is a guess, which must not make a call impossible that may fit."""

    __slots__ = ("_bound", "_clock", "_most", "_reserve")

    def __init__(self, specs: tuple[MeterSpec, ...], limiter: MemoryLimiter) -> None:
        self._clock = limiter.clock
        self._reserve = limiter.reserve_now
        self._bound = limiter.bind(specs)
        self._most = min((spec.limit for spec in specs if spec.unit == "tokens"), default=0)

    @classmethod
    def of(cls, deployment: Deployment, limiter: MemoryLimiter) -> Caps | None:
        """The caps of `deployment`, counted by `limiter`; None when it has none."""
        specs = deployment_meters(deployment)
        return cls(specs, limiter) if specs else None

    def full(self, tokens: int) -> tuple[MeterUnit, str, float] | None:
        """Of the cap that has no room for a call with `tokens`: its unit, what it is in words,
        and the seconds until it may have room."""
        try:
            check(self._clock(), self._fitting(tokens), self._bound)
        except Exceeded as error:
            spec = error.spec
            reason = f"at its cap of {words.amount(spec)}"
            return spec.unit, reason, error.retry_after
        return None

    def take(self, tokens: int) -> Ticket | None:
        """Count a call with `tokens`, to be settled or released; None when there is no room."""
        try:
            return self._reserve(self._bound, self._fitting(tokens))
        except Exceeded:
            return None

    def _fitting(self, tokens: int) -> int:
        most = self._most
        return most if most and tokens > most else tokens
