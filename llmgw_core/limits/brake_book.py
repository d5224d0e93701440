"""The brake: what every key and session of this process has come to, asked before a call, and fed
by settlement.

Rule of this file: pure and without waiting, so that no race of calls gets past a bound. A call is
let in as long as what was charged, and what calls under way may cost, is below the bound: so a run
costs at most one call more than that, beyond estimates.
"""

from __future__ import annotations

from collections import Counter as Tally
from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from llmgw_core.limits.brake_rules import Bound, BrakeRules, Rule, Scope, Speed
from llmgw_core.limits.brake_runs import Run, Runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.limits.velocity import Pace

IDLE = 900.0
"""Seconds of the pause that ends a run, unless the configuration says otherwise."""
_WARNED = 0.5
"""The share of what velocity refuses at from which on it is told."""


class Braked(Exception):
    """A bound of a run is reached. `end` is when it lets through again if nothing comes (seconds of
    the book's clock), None as long as calls under way decide that."""

    def __init__(self, scope: Scope, bound: Bound, limit: float, end: float | None) -> None:
        super().__init__(f"{scope} {bound}")
        self.scope: Scope = scope
        self.bound: Bound = bound
        self.limit = limit
        self.end = end


class BrakeEvent(NamedTuple):
    """What is told once for each run and bound: calls are `refused`, or would be with `shadow`; or
    spending is `fast`. `value` is what the run has come to, money in nano-units; `session` the hash
    of the session, "" without."""

    kind: Literal["refused", "fast"]
    owner: tuple[LevelKind, str]
    scope: Scope
    bound: Bound
    limit: float
    value: float
    shadow: bool
    session: str


class KeyState(msgspec.Struct, frozen=True):
    """How one key is at the moment: of its run calls and money (nano-units), with what calls under
    way may cost; its sessions in memory; what it has spent in ten minutes, and what is usual."""

    level: str
    id: str
    calls: int
    money: int
    reserved: int
    sessions: int
    recent: int
    usual: int


class Trip(NamedTuple):
    """What one call has counted in."""

    rules: BrakeRules
    runs: tuple[Run, ...]
    pace: Pace
    body: bytes
    need: int
    counted: bool


class BrakeBook:
    """`clock` gives seconds and never goes backwards, `wall_clock` seconds since the epoch; `tell`
    hears of every event and must not raise."""

    def __init__(
        self,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        tell: Callable[[BrakeEvent], None],
        runs: Runs | None = None,
    ) -> None:
        self.clock = clock
        self.wall_clock = wall_clock
        self.tell = tell
        self.runs = Runs(IDLE) if runs is None else runs
        self.open: dict[str, tuple[Trip, bool]] = {}
        """By the id of each call under way: its trip, and whether it is its own or that of the call
        that it is a part of."""
        self.refused: Tally[tuple[str, str, bool]] = Tally()
        """(scope, bound, shadow) → calls that were refused, or would have been."""
        self.fast = 0
        """How often spending became fast."""

    def begin(
        self, rules: BrakeRules, call_id: str, session: int | None, body: bytes, need: int
    ) -> None:
        """A call begins that may cost `need`, of this session, and with a request of this hash
        (empty: nobody compares). Raises `Braked`, and counts nothing, when a bound is reached."""
        now = self.clock()
        self.runs.sweep(now)
        key = self.runs.key(rules.owner, now)
        runs: tuple[Run, ...] = (key.run,)
        if session is not None:
            runs = (key.run, self.runs.session(key, session, now))
        self._check(rules, runs, key.pace, body, now)
        for run in runs:
            run.count(body, now)
        self._admit(call_id, Trip(rules, runs, key.pace, body, need, counted=True))

    def examine(self, rules: BrakeRules, session: int | None, body: bytes) -> None:
        """Raise what `begin` would raise now, and tell nobody."""
        now = self.clock()
        key = self.runs.key(rules.owner, now)
        known = None if session is None else key.sessions.get(session)
        live = known is not None and not known.over(now, self.runs.idle)
        runs = (key.run, known) if known is not None and live else (key.run,)
        self._check(rules, runs, key.pace, body, now, quietly=True)

    def join(self, rules: BrakeRules, call_id: str, parent: str) -> None:
        """A call that a plugin makes in the course of the call `parent`: what it costs is that
        one's, and it is no call of its own. Never refused: it is a part of what was let in."""
        found = self.open.get(parent)
        if found is not None:
            self.open[call_id] = (found[0], False)
            return
        key = self.runs.key(rules.owner, self.clock())
        self._admit(call_id, Trip(rules, (key.run,), key.pace, b"", 0, counted=False))

    def cancel(self, call_id: str) -> None:
        """The call did not happen: somebody else has refused it."""
        trip, own = self.open.pop(call_id)
        if own:
            self._give_back(trip)
            for run in trip.runs:
                if trip.counted:
                    run.discount(trip.body)

    def settled(self, record: UsageRecord) -> None:
        """A call has been settled, and goes on the books as this."""
        found = self.open.pop(record.call_id, None)
        if found is None:
            return
        trip, own = found
        now = self.clock()
        for run in trip.runs:
            run.money += record.charge
            run.last = now
        if own:
            self._give_back(trip)
        if trip.rules.speeds:
            trip.pace.add(record.charge, now)
            self._warn(trip, now)

    def states(self) -> list[KeyState]:
        """How all keys in memory are."""
        now = self.clock()
        return [
            KeyState(
                *key.run.owner,
                key.run.calls,
                key.run.money,
                key.run.reserved,
                len(key.sessions),
                key.pace.recent(now),
                int(key.pace.history.usual),
            )
            for key in self.runs.known()
        ]

    def _admit(self, call_id: str, trip: Trip) -> None:
        for run in trip.runs:
            run.open += 1
            run.reserved += trip.need
        self.open[call_id] = (trip, True)

    @staticmethod
    def _give_back(trip: Trip) -> None:
        for run in trip.runs:
            run.open -= 1
            run.reserved -= trip.need

    def _check(
        self,
        rules: BrakeRules,
        runs: tuple[Run, ...],
        pace: Pace,
        body: bytes,
        now: float,
        *,
        quietly: bool = False,
    ) -> None:
        found: list[Braked] = []
        for error, shadow, mark in self._reached(rules, runs, pace, body, now):
            if not quietly:
                self._note(error, shadow, mark, runs, pace, now)
            if not shadow:
                found.append(error)
        if found:
            raise max(found, key=lambda error: inf if error.end is None else error.end)

    def _reached(
        self, rules: BrakeRules, runs: tuple[Run, ...], pace: Pace, body: bytes, now: float
    ) -> Iterator[tuple[Braked, bool, Rule | Speed]]:
        """Every bound that is reached."""
        listed: Sequence[tuple[Scope, tuple[Rule, ...]]] = (
            ("key", rules.key),
            ("session", rules.session),
        )
        for run, (scope, bounds) in zip(runs, listed, strict=False):
            end = None if run.open else run.last + self.runs.idle
            for rule in bounds:
                if run.full(rule, body, now):
                    yield Braked(scope, rule.bound, rule.limit, end), rule.shadow, rule
        if rules.speeds and rules.lifted_until <= self.wall_clock():
            recent, held = pace.recent(now), runs[0].reserved
            for speed in rules.speeds:
                bar = pace.bar(speed)
                if recent + held >= bar:
                    end = None if held else pace.below(bar, now)
                    yield Braked("key", "velocity", bar, end), speed.shadow, speed

    def _note(
        self,
        error: Braked,
        shadow: bool,
        mark: Rule | Speed,
        runs: tuple[Run, ...],
        pace: Pace,
        now: float,
    ) -> None:
        self.refused[error.scope, error.bound, shadow] += 1
        run = runs[error.scope == "session"]
        if isinstance(mark, Speed):
            if not shadow:
                pace.exceeded(now)
            self._tell_speed("refused", run, mark, pace, now)
        elif mark not in run.told:
            run.told.add(mark)
            values = {
                "money": run.money + run.reserved,
                "calls": run.calls,
                "seconds": now - run.first,
                "repeats": run.repeats,
            }
            session = "" if run.session is None else f"{run.session:016x}"
            self.tell(
                BrakeEvent(
                    "refused",
                    run.owner,
                    error.scope,
                    mark.bound,
                    mark.limit,
                    values[mark.bound],
                    mark.shadow,
                    session,
                )
            )

    def _warn(self, trip: Trip, now: float) -> None:
        recent = trip.pace.recent(now)
        for speed in trip.rules.speeds:
            if recent >= _WARNED * trip.pace.bar(speed):
                self._tell_speed("fast", trip.runs[0], speed, trip.pace, now)
            else:
                trip.pace.told -= {("fast", speed), ("refused", speed)}

    def _tell_speed(
        self, kind: Literal["refused", "fast"], run: Run, speed: Speed, pace: Pace, now: float
    ) -> None:
        if (kind, speed) in pace.told:
            return
        pace.told.add((kind, speed))
        self.fast += kind == "fast"
        value = pace.recent(now) + run.reserved
        self.tell(
            BrakeEvent(kind, run.owner, "key", "velocity", pace.bar(speed), value, speed.shadow, "")
        )
