"""The circuit breaker of one deployment: a pure table, and the counters that feed it.

What calls tell decides, nothing else: no I/O, no clock of its own, no randomness. A closed
breaker counts; so many failures in a row, or too large a share of them within a window, eject the
deployment for a while. After that a limited number of calls are let through as probes (half-open):
so many successes close the breaker, one failure ejects again, for longer. Being healthy lets what
is remembered of earlier ejections fade.

An attempt belongs to the *term* in which it began (a term ends with every change of state). What
an attempt of an earlier term has to say is old news and counts for nothing, so that twenty streams
that die with one engine are one ejection and not twenty.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.health import BreakerSettings

_SLOTS: Final = 10
_ROUNDING: Final = 1e-9
REFUSED: Final = -1
"""Instead of a term: the attempt must not be made."""
UNCOUNTED: Final = 0
"""A term that never is: whatever comes of the attempt counts for nothing."""


class BreakerState(enum.Enum):
    """Whether calls get through."""

    CLOSED = "closed"
    """Healthy: every call does."""
    OPEN = "open"
    """Ejected: none does, before its time is over."""
    HALF_OPEN = "half_open"
    """On trial: a few do, as probes."""


class BreakerEvent(enum.Enum):
    """What can happen to a breaker. Everything else (one failure of many, a success while closed)
    only moves its counters."""

    EXCEEDED = "exceeded"
    """A limit of failures is reached, and the pool can spare the deployment."""
    DUE = "due"
    """The ejection is over, and a call is there to try."""
    SUCCEEDED = "succeeded"
    """An attempt went well that was made although the deployment is ejected."""
    FAILED = "failed"
    """An attempt failed that was a probe."""
    PROVED = "proved"
    """As many probes have succeeded as are needed."""


CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

TRANSITIONS: Final[dict[tuple[BreakerState, BreakerEvent], BreakerState]] = {
    (CLOSED, BreakerEvent.EXCEEDED): OPEN,
    (OPEN, BreakerEvent.DUE): HALF_OPEN,
    (OPEN, BreakerEvent.SUCCEEDED): HALF_OPEN,
    (HALF_OPEN, BreakerEvent.FAILED): OPEN,
    (HALF_OPEN, BreakerEvent.PROVED): CLOSED,
}
"""Every change there is. A pair that is not here changes nothing."""


class BreakerChange(msgspec.Struct, frozen=True):
    """A breaker went from `before` to `after` because of `reason`. `seconds`: how long the
    ejection lasts, 0 when it is none."""

    before: BreakerState
    after: BreakerState
    reason: str
    seconds: float = 0.0


class Pool:
    """The deployments of one model, of which only a part may be ejected: what makes all of them
    fail is seldom cured by having none."""

    __slots__ = ("ejected", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.ejected = 0
        """Open or half-open."""

    def spares(self, share: float) -> bool:
        """Whether one more may be ejected when `share` of them may."""
        return share > 0 and self.ejected < max(1, int(self.size * share + _ROUNDING))


class OutcomeWindow:
    """Successes and failures of the last `seconds`, to a tenth of them. `good` and `bad` are those
    of the current slot; whoever adds to them calls `turn` before when `ends` is reached."""

    __slots__ = ("_past", "_slot", "bad", "ends", "good")

    def __init__(self, seconds: float) -> None:
        self._slot = seconds / _SLOTS
        self._past: deque[tuple[int, int]] = deque(maxlen=_SLOTS - 1)
        self.good = self.bad = 0
        self.ends = 0.0

    def turn(self, now: float) -> None:
        """Begin the slot that `now` is in."""
        missed = int((now - self.ends) / self._slot)
        self._past.append((self.good, self.bad))
        self._past.extend([(0, 0)] * min(missed, _SLOTS))
        self.good = self.bad = 0
        self.ends += (missed + 1) * self._slot

    def totals(self, now: float) -> tuple[int, int]:
        """(successes, failures) of the whole window."""
        if now >= self.ends:
            self.turn(now)
        past = self._past
        return self.good + sum(good for good, _ in past), self.bad + sum(bad for _, bad in past)

    def clear(self) -> None:
        """Forget everything."""
        self._past.clear()
        self.good = self.bad = 0


def _nobody(breaker: Breaker, change: BreakerChange | None) -> None:
    """Who watches when nobody else does."""


class Breaker:
    """Made closed. An attempt asks `enter` before it is made and reports what came of it, with the
    term that it was given: `succeeded`, `failed`, or `abandoned` when it says nothing about the
    deployment. While `closed` is true `term` itself may stand for `enter`.

    `watch` is called after every change of state, and, without a change, whenever the number of
    probes that may be made is another one."""

    __slots__ = (
        "_level",
        "_pool",
        "_probing",
        "_proofs",
        "_run",
        "_since",
        "_watch",
        "_window",
        "closed",
        "ejections",
        "reason",
        "settings",
        "state",
        "term",
        "until",
    )

    def __init__(
        self,
        settings: BreakerSettings,
        pool: Pool,
        now: float,
        watch: Callable[[Breaker, BreakerChange | None], None] = _nobody,
    ) -> None:
        self.settings = settings
        self.state = CLOSED
        self.closed = True
        self.term = 1
        self.until = 0.0
        """When the ejection is over."""
        self.reason = ""
        """Why it was ejected last."""
        self.ejections = 0
        """How many there have been."""
        self._pool = pool
        self._watch = watch
        self._window = OutcomeWindow(settings.window)
        self._since = now
        """When it was closed."""
        self._level = 0
        """Ejections that are not made up for."""
        self._run = 0
        """Failures in a row."""
        self._probing = 0
        """Probes under way."""
        self._proofs = 0
        """Probes that have succeeded."""

    def configure(self, settings: BreakerSettings, pool: Pool) -> None:
        """Go on with these. Health is kept; counts of a window of another length are not."""
        if settings.window != self.settings.window:
            self._window = OutcomeWindow(settings.window)
        if not self.closed and pool is not self._pool:
            self._pool.ejected -= 1
            pool.ejected += 1
        self.settings, self._pool = settings, pool

    def release(self) -> None:
        """The deployment is gone: it is none of the pool's any more, and nobody is told what else
        comes of its last attempts."""
        if not self.closed:
            self._pool.ejected -= 1
        self._pool, self._watch = Pool(1), _nobody

    def admits(self, now: float) -> bool:
        """Whether `enter` would let an attempt through. Changes nothing."""
        if self.closed:
            return True
        if self.state is OPEN:
            return now >= self.until
        # Where nobody is on trial there always is room for one: fewer probes may be needed since a
        # reload than have succeeded already.
        return self._probing < max(self.settings.probes - self._proofs, 1)

    def enter(self, now: float, *, forced: bool = False) -> int:
        """The term of an attempt that is about to be made, or `REFUSED`. With `forced` (there is
        nobody else) it is made in any case; then it may be `UNCOUNTED`."""
        if self.closed:
            return self.term
        if self.state is OPEN:
            if now < self.until:
                return self.term if forced else REFUSED
            self._step(BreakerEvent.DUE, now, "its ejection is over")
        elif not self.admits(now):
            return UNCOUNTED if forced else REFUSED
        self._probing += 1
        self._watch(self, None)
        return self.term

    def succeeded(self, term: int, now: float) -> None:
        """The attempt went well."""
        if term != self.term:
            return
        if self.closed:
            self._run = 0
            window = self._window
            if now >= window.ends:
                window.turn(now)
            window.good += 1
            return
        if self.state is OPEN:
            self._step(BreakerEvent.SUCCEEDED, now, "a call went well all the same")
        else:
            self._probing -= 1
        self._proofs += 1
        if self._proofs >= self.settings.probes:
            self._step(BreakerEvent.PROVED, now, "what was tried went well")

    def failed(self, term: int, now: float) -> None:
        """The attempt failed in a way that counts."""
        if term != self.term:
            return
        if not self.closed:
            self._step(BreakerEvent.FAILED, now, "it failed again")
            return
        self._run += 1
        window = self._window
        if now >= window.ends:
            window.turn(now)
        window.bad += 1
        reason = self._exceeded(now)
        if reason and self._pool.spares(self.settings.max_ejected):
            self._step(BreakerEvent.EXCEEDED, now, reason)

    def abandoned(self, term: int) -> None:
        """The attempt ended without a word about the deployment: throttled, at fault itself, given
        up by its caller. If it was a probe, another call may be one."""
        if term == self.term and self.state is HALF_OPEN:
            self._probing -= 1
            self._watch(self, None)

    def hasten(self, now: float) -> None:
        """It has been found ready again: the next call may try it, whatever is left of its
        ejection."""
        if self.state is OPEN:
            self.until = min(self.until, now)
            self._watch(self, None)

    def _exceeded(self, now: float) -> str:
        """The limit that has been reached, in words."""
        settings = self.settings
        if settings.consecutive and self._run >= settings.consecutive:
            return f"{self._run} failures in a row"
        if settings.failure_share:
            good, bad = self._window.totals(now)
            calls = good + bad
            if calls >= settings.minimum_calls and bad >= settings.failure_share * calls:
                return f"{bad} of {calls} calls failed within {settings.window:g} s"
        return ""

    def _step(self, event: BreakerEvent, now: float, reason: str) -> None:
        before = self.state
        after = TRANSITIONS.get((before, event), before)
        if after is before:
            return
        self.state = after
        self.term += 1
        self._run = self._probing = self._proofs = 0
        seconds = 0.0
        if after is OPEN:
            self.reason = reason
            seconds = self._eject(before, now)
        elif after is CLOSED:
            self.closed = True
            self._since = now
            self._window.clear()
            self._pool.ejected -= 1
        self._watch(self, BreakerChange(before, after, reason, seconds))

    def _eject(self, before: BreakerState, now: float) -> float:
        settings = self.settings
        if before is CLOSED:
            self.closed = False
            self._pool.ejected += 1
            self._level = max(0, self._level - int((now - self._since) / settings.decay))
        seconds: float = min(settings.max_ejection, settings.ejection * 2.0 ** min(self._level, 62))
        if seconds < settings.max_ejection:
            self._level += 1
        self.ejections += 1
        self.until = now + seconds
        return seconds
