"""Random interleavings of reserve, amend, settle, release and time against an exact log.

Rule of this file: the log (`limiter_log`) is the judge. Where an implementation has a choice
within its precision, both outcomes are accepted; everywhere else exactly one is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmgw_core.limits.port import Exceeded, Limiter, MeterSpec, MeterState, MeterUnit, Reservation
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.limiter_log import TOLERANCE, Booking, Log

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

METERS: tuple[tuple[str, MeterUnit], ...] = tuple(
    (owner, unit)
    for owner in ("team:t", "key:a", "key:b", "model:x", "model:y")
    for unit in ("requests", "tokens", "parallel")
)
CALLS = tuple((key, model) for key in ("key:a", "key:b") for model in ("model:x", "model:y"))
CHOICES: dict[MeterUnit, list[int | None]] = {
    "requests": [None, 2, 3, 5, 8, 1, 0],
    "tokens": [None, 100, 60, 200, 10, 0],
    "parallel": [None, None, 3, 2, 1, 0],
}
LIMITS = st.fixed_dictionaries({meter: st.sampled_from(CHOICES[meter[1]]) for meter in METERS})
TOKENS = st.integers(0, 40) | st.integers(0, 250)
FRACTIONS = st.just(0.0) | st.integers(0, 64).map(lambda n: n / 64) | st.sampled_from([1.0, 2.0])
# Multiples of 1/64 are exact in binary: the log compares instants, not roundings.
SECONDS = st.sampled_from([0.0, 1 / 64, 0.5]) | st.integers(0, 64).map(lambda n: n / 64)


class Demand(NamedTuple):
    """What is asked of one meter. With `surely` false the implementation may not ask at all,
    because within its precision the tokens do not grow."""

    spec: MeterSpec
    amount: int
    surely: bool = True


class Held:
    """A ticket with the bookings that it caused."""

    def __init__(self, ticket: Reservation, tokens: int) -> None:
        self.ticket = ticket
        self.tokens = tokens
        self.specs: dict[str, MeterSpec] = {}
        self.bookings: dict[str, Booking] = {}

    def of(self, unit: MeterUnit) -> list[tuple[str, Booking]]:
        """The bookings in meters of `unit`."""
        return [(i, b) for i, b in self.bookings.items() if self.specs[i].unit == unit]


class LimiterMachine(RuleBasedStateMachine):
    """See the rules. A subclass says how the limiter is made, and in seconds its precision and
    the window of all meters (a short one repeats sooner)."""

    make: Callable[[FakeClock], Limiter]
    precision: float
    window: float

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.limiter = self.make(self.clock)
        self.loop = asyncio.new_event_loop()
        self.logs = {f"{owner}:{unit}": Log(self.window, self.precision) for owner, unit in METERS}
        self.used = {f"{owner}:{unit}": 0 for owner, unit in METERS}
        self.held: list[Held] = []
        self.specs: dict[tuple[str, str], list[MeterSpec]] = {}
        self.bound: dict[tuple[str, str], Any] = {}

    @initialize(limits=LIMITS)
    def start(self, limits: dict[tuple[str, MeterUnit], int | None]) -> None:
        """Bind for the first time."""
        self._bind(limits)

    @rule(limits=LIMITS)
    def reconfigure(self, limits: dict[tuple[str, MeterUnit], int | None]) -> None:
        """Bind anew, with other limits over the same meters."""
        self._bind(limits)

    def _bind(self, limits: dict[tuple[str, MeterUnit], int | None]) -> None:
        for call in CALLS:
            self.specs[call] = [
                MeterSpec(f"{owner}:{unit}", owner, unit, limit, self.window)
                for (owner, unit), limit in limits.items()
                if limit is not None and owner in ("team:t", *call)
            ]
            self.bound[call] = self.limiter.bind(self.specs[call])

    @rule(fraction=FRACTIONS, seconds=SECONDS)
    def pass_time(self, fraction: float, seconds: float) -> None:
        """Nothing happens for a part of the window and some seconds."""
        self.clock.now += fraction * self.window + seconds

    @rule(call=st.sampled_from(CALLS), tokens=TOKENS, obey=st.booleans())
    def reserve(self, call: tuple[str, str], tokens: int, obey: bool) -> None:
        """Admit exactly when everything fits; with `obey`, come back when told to."""
        try:
            self._reserve(call, tokens)
        except Exceeded as refused:
            if not obey or refused.never:
                return
            self.clock.now += refused.retry_after
            full = any(s.unit == "parallel" and self._full(s) for s in self.specs[call])
            with contextlib.suppress(Exceeded) if full else contextlib.nullcontext():
                self._reserve(call, tokens)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 50), tokens=TOKENS, call=st.none() | st.sampled_from(CALLS))
    def amend(self, which: int, tokens: int, call: tuple[str, str] | None) -> None:
        """Change the tokens and perhaps go to another model."""
        held = self.held[which % len(self.held)]
        added = [s for s in self.specs[call] if s.id not in held.specs] if call else []
        bound = self.bound[call] if call else None
        now = self.clock.now
        if not added and tokens <= held.tokens:
            self._run(held.ticket.amend(tokens, bound))
            for id, booking in held.of("tokens"):
                self.logs[id].correct(booking, tokens - held.tokens, now)
            held.tokens = tokens
            return
        before = [(b, b.least, b.most) for _, b in held.of("tokens")]
        demands = [*self._growing(held, tokens), *self._demands(added, tokens)]
        try:
            self._decide(demands, held.ticket.amend(tokens, bound))
        except Exceeded:
            for booking, least, most in before:
                booking.least, booking.most = least, most
            return
        for id, _ in held.of("tokens"):
            held.bookings[id] = self.logs[id].book(now, tokens)
        held.tokens = tokens
        self._book(held, added)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 50), tokens=TOKENS)
    def settle(self, which: int, tokens: int) -> None:
        """A call ends and used some number of tokens."""
        held = self.held.pop(which % len(self.held))
        held.ticket.settle(tokens)
        for id, booking in held.of("tokens"):
            self.logs[id].correct(booking, tokens - held.tokens, self.clock.now)
        self._end(held)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 50))
    def release(self, which: int) -> None:
        """A call turns out not to have happened."""
        held = self.held.pop(which % len(self.held))
        held.ticket.release()
        for id, booking in held.of("tokens"):
            self.logs[id].correct(booking, -held.tokens, self.clock.now)
        for id, booking in held.of("requests"):
            self.logs[id].correct(booking, -1, self.clock.now)
        self._end(held)

    @invariant()
    def the_state_agrees_with_the_log(self) -> None:
        """Of one set of meters each time, so that others stay untouched for long."""
        call = CALLS[len(self.held) % len(CALLS)]
        requests, tokens = self.limiter.state(self.bound[call])
        self._check_state(requests, [s for s in self.specs[call] if s.unit == "requests"])
        self._check_state(tokens, [s for s in self.specs[call] if s.unit == "tokens"])

    def teardown(self) -> None:
        """After all calls and a pause nothing is left: no count, no parallel slot."""
        while self.held:
            self.settle(0, self.held[0].tokens)
        self.clock.now += 1000
        for call, specs in self.specs.items():
            for state in self.limiter.state(self.bound[call]):
                assert state is None or (state.remaining, state.reset) == (state.limit, 0.0)
            self._fill_parallel_slots([s for s in specs if s.unit == "parallel"])
        self._run(self.limiter.aclose())
        self.loop.close()

    def _fill_parallel_slots(self, specs: list[MeterSpec]) -> None:
        for spec in specs:
            bound = self.limiter.bind([spec])
            tickets = [self._run(self.limiter.reserve(bound, 0)) for _ in range(spec.limit)]
            with contextlib.suppress(Exceeded):
                tickets.append(self._run(self.limiter.reserve(bound, 0)))
            for ticket in tickets:
                ticket.release()
            assert len(tickets) == spec.limit

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def _reserve(self, call: tuple[str, str], tokens: int) -> None:
        specs = self.specs[call]
        ticket = self._decide(
            self._demands(specs, tokens), self.limiter.reserve(self.bound[call], tokens)
        )
        held = Held(ticket, tokens)
        self.held.append(held)
        self._book(held, specs)

    def _book(self, held: Held, specs: list[MeterSpec]) -> None:
        for spec in specs:
            held.specs[spec.id] = spec
            if spec.unit == "parallel":
                self.used[spec.id] += 1
            else:
                amount = 1 if spec.unit == "requests" else held.tokens
                held.bookings[spec.id] = self.logs[spec.id].book(self.clock.now, amount)

    def _end(self, held: Held) -> None:
        for spec in held.specs.values():
            if spec.unit == "parallel":
                self.used[spec.id] -= 1

    def _demands(self, specs: list[MeterSpec], tokens: int) -> list[Demand]:
        return [Demand(spec, tokens if spec.unit == "tokens" else 1) for spec in specs]

    def _growing(self, held: Held, tokens: int) -> list[Demand]:
        """Take the ticket's own tokens out of the log; where they grow they are asked anew."""
        demands = []
        for id, booking in held.of("tokens"):
            log, age = self.logs[id], self.clock.now - booking.at
            least = booking.least if age <= log.window else 0
            most = booking.most if age <= log.longest else 0
            booking.least = booking.most = 0
            if tokens > least:
                demands.append(Demand(held.specs[id], tokens, surely=tokens > most))
        return demands

    def _decide(self, demands: list[Demand], attempt: Coroutine[Any, Any, T]) -> T:
        """Run `attempt` and hold its outcome against the log."""
        now = self.clock.now
        must_refuse = any(d.surely and not self._fits(d, now, certain=False) for d in demands)
        must_admit = all(self._fits(d, now, certain=True) for d in demands)
        try:
            result = self._run(attempt)
        except Exceeded as refused:
            if must_admit:
                raise AssertionError("refused although everything fits") from refused
            self._check_refusal(refused, demands, now)
            raise
        assert not must_refuse, "admitted more than a limit"
        return result

    def _fits(self, demand: Demand, now: float, *, certain: bool) -> bool:
        spec = demand.spec
        if spec.unit == "parallel":
            return not self._full(spec)
        log = self.logs[spec.id]
        counted = log.most(now) if certain else log.least(now)
        return spec.limit > 0 and counted + demand.amount <= spec.limit

    def _check_refusal(self, refused: Exceeded, demands: list[Demand], now: float) -> None:
        assert refused.spec in [demand.spec for demand in demands]
        waits = [self._longest_wait(demand, now) for demand in demands]
        if refused.never:
            assert math.inf in waits
            return
        sure = [w for w, demand in zip(waits, demands, strict=True) if demand.surely]
        assert math.inf not in sure, "it never fits, and the refusal does not say so"
        longest = max((wait for wait in waits if wait < math.inf), default=0.0)
        assert 0 < refused.retry_after <= longest + 2 * TOLERANCE, "told to wait too long"

    def _full(self, spec: MeterSpec) -> bool:
        return self.used[spec.id] >= spec.limit

    def _longest_wait(self, demand: Demand, now: float) -> float:
        spec = demand.spec
        if spec.unit == "parallel":
            return math.inf if spec.limit <= 0 else float(self._full(spec))
        return self.logs[spec.id].longest_wait(demand.amount, spec.limit, now)

    def _check_state(self, state: MeterState | None, specs: list[MeterSpec]) -> None:
        assert (state is None) == (not specs)
        if state is None:
            return
        now = self.clock.now
        assert state.remaining <= min(max(0, s.limit - self.logs[s.id].least(now)) for s in specs)
        assert any(self._may_be(state, spec, now) for spec in specs)

    def _may_be(self, state: MeterState, spec: MeterSpec, now: float) -> bool:
        log = self.logs[spec.id]
        soonest, latest = log.resets(now)
        return (
            state.limit == spec.limit
            and state.remaining >= max(0, spec.limit - log.most(now))
            and soonest <= state.reset <= latest
        )
