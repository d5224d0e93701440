"""Random interleavings over meters of every unit, kind and shape, against `limiter_reference`.

What must hold: a call is admitted exactly when every meter that refuses has room for it; what is
refused leaves no trace; no meter is above its limit by more than what calls have used beyond what
they had reserved; when nothing runs, nothing is left but what was used.
"""

from __future__ import annotations

import asyncio
import gc
import math
import warnings
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from llmgw_core.limits.port import Demand, Exceeded, MeterSpec
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.limiter_reference import (
    GRID,
    ReferenceBucket,
    ReferenceWindow,
    Total,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.limits.memory import MemoryLimiter
    from llmgw_core.limits.port import Counter, MeterState, Reservation

LONG = 480.0
"""Seconds of the windows that stand for days."""
TEMPLATES = (
    MeterSpec("rpm", "key", "requests", 4),
    MeterSpec("rpd", "key", "requests", 9, LONG),
    MeterSpec("tpm", "key", "tokens", 100),
    MeterSpec("tpd", "key", "tokens", 300, LONG),
    MeterSpec("input", "team", "tokens", 60, kind="input"),
    MeterSpec("output", "team", "tokens", 60, kind="output"),
    MeterSpec("output-day", "team", "tokens", 200, LONG, kind="output"),
    MeterSpec("parallel", "team", "parallel", 3),
    MeterSpec("bucket", "model", "requests", 6, shape="bucket", capacity=2),
    MeterSpec("token-bucket", "model", "tokens", 120, shape="bucket", capacity=80),
    MeterSpec("input-bucket", "model", "tokens", 30, kind="input", shape="bucket", capacity=50),
    MeterSpec("shadow-rpm", "user", "requests", 1, shadow=True),
    MeterSpec("shadow-tpm", "user", "tokens", 50, shadow=True),
    MeterSpec("shadow-parallel", "user", "parallel", 1, shadow=True),
    MeterSpec("shadow-bucket", "user", "tokens", 9, shape="bucket", capacity=9, shadow=True),
)
MONEY = MeterSpec("money", "key", "money", 500, shape="period")
AMOUNTS = st.integers(0, 30) | st.integers(0, 110)
CHOSEN = st.sets(st.sampled_from(range(len(TEMPLATES))), min_size=1)
FACTORS = st.sampled_from([1, 1, 1, 2, 3])


class Call:
    """An admitted call: its ticket, and what it has booked in every reference."""

    def __init__(self, ticket: Reservation, demand: Demand, specs: list[MeterSpec]) -> None:
        self.ticket: Reservation | None = ticket
        self.demand = demand
        self.specs = specs
        self.bookings: dict[str, Any] = {}


def needs(spec: MeterSpec, demand: Demand) -> int:
    """What a call asks of a meter."""
    if spec.unit == "money":
        return demand.money
    if spec.unit != "tokens":
        return 1
    both = demand.input_tokens + demand.output_tokens
    return {"all": both, "input": demand.input_tokens, "output": demand.output_tokens}[spec.kind]


class KindsMachine(RuleBasedStateMachine):
    """See the module. A subclass says how the limiter is made."""

    make: Callable[[FakeClock], MemoryLimiter]

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(GRID * 1000)
        self.limiter = self.make(self.clock)
        self.shadowed: list[str] = []
        self.limiter.in_shadow = lambda spec: self.shadowed.append(spec.id)
        self.loop = asyncio.new_event_loop()
        self.total = Total()
        self.references: dict[str, Any] = {}
        self.parallel: dict[str, int] = {}
        self.highest: dict[str, int] = {}
        self.over: dict[str, int] = {}
        self.calls: list[Call] = []
        self.specs: list[MeterSpec] = []
        self.bound: Any = None

    @initialize(chosen=CHOSEN, factor=FACTORS, money=st.booleans())
    def start(self, chosen: set[int], factor: int, money: bool) -> None:
        """Bind for the first time."""
        self._bind(chosen, factor, money)

    @rule(chosen=CHOSEN, factor=FACTORS, money=st.booleans())
    def reconfigure(self, chosen: set[int], factor: int, money: bool) -> None:
        """Other meters apply, with other limits; buckets keep their rate and get another size."""
        self._bind(chosen, factor, money)

    def _bind(self, chosen: set[int], factor: int, money: bool) -> None:
        plain = [_scaled(TEMPLATES[index], factor) for index in sorted(chosen)]
        others = [(MONEY, self.total)] if money else []
        self.specs = [*plain, *(spec for spec, _ in others)]
        self.bound = self.limiter.bind(plain, others)
        for spec in self.specs:
            self.references.setdefault(spec.id, _reference(spec))
            self.highest[spec.id] = max(self.highest.get(spec.id, 0), spec.limit)

    @rule(steps=st.integers(0, 12) | st.sampled_from([60, 61]))
    def pass_time(self, steps: int) -> None:
        """Nothing happens for a while."""
        self.clock.now += steps * GRID

    @rule(given=AMOUNTS, made=AMOUNTS, money=AMOUNTS, obey=st.booleans())
    def reserve(self, given: int, made: int, money: int, obey: bool) -> None:
        """Admit exactly when everything fits; with `obey`, come back when told to."""
        demand = Demand(given, made, money)
        refused = self._reserve(demand)
        full = any(s.unit == "parallel" and not self._fits(s, demand) for s in self._refusing())
        if refused is None or refused.never or not obey or full or refused.spec.id == "money":
            return
        self.clock.now += math.ceil(refused.retry_after / GRID) * GRID
        assert self._reserve(demand) is None, "refused after the time that was told"

    def _reserve(self, demand: Demand) -> Exceeded | None:
        right = all(self._fits(spec, demand) for spec in self._refusing())
        would = {s.id for s in self.specs if s.shadow and not self._fits(s, demand)}
        before, self.shadowed[:] = self._states(), []
        tokens = demand.input_tokens + demand.output_tokens
        refusal = None
        try:
            ticket = self.limiter.reserve_now(self.bound, tokens, demand)
        except Exceeded as refused:
            refusal = refused
        if refusal is not None:
            assert self._loose() or not right, f"{refusal.spec.id} refused what fits"
            assert not self.shadowed
            self._check_refusal(refusal, before)
            return refusal
        assert right, "admitted more than a limit"
        assert set(self.shadowed) == would or self._loose()
        call = Call(ticket, demand, self.specs)
        for spec in self.specs:
            call.bookings[spec.id] = self._book(spec, needs(spec, demand))
        self.calls.append(call)
        return None

    def _loose(self) -> bool:
        """Whether there is more than one right answer."""
        return any(getattr(self.references[spec.id], "loose", False) for spec in self.specs)

    def _check_refusal(self, refused: Exceeded, before: dict[MeterSpec, MeterState]) -> None:
        assert not refused.spec.shadow
        assert self._states() == before, "what was refused left a trace"

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 50), given=AMOUNTS, made=AMOUNTS, money=AMOUNTS)
    def amend(self, which: int, given: int, made: int, money: int) -> None:
        """A running call turns out to need more, or less."""
        call = self.calls[which % len(self.calls)]
        assert call.ticket is not None
        demand, before = Demand(given, made, money), self._states()
        right = all(self._may_grow(call, spec, demand) for spec in call.specs if not spec.shadow)
        refusal = None
        try:
            self.loop.run_until_complete(call.ticket.amend(given + made, None, demand))
        except Exceeded as refused:
            refusal = refused
        if refusal is not None:
            assert self._loose() or not right, f"{refusal.spec.id} refused what fits"
            self._check_refusal(refusal, before)
            return
        assert right, "amended beyond a limit"
        for spec in call.specs:
            if spec.unit == "tokens":
                self._amend(call, spec, needs(spec, call.demand), needs(spec, demand))
        call.demand = demand

    def _may_grow(self, call: Call, spec: MeterSpec, demand: Demand) -> bool:
        """Whether what the call needs more has room; less always has."""
        held, amount = needs(spec, call.demand), needs(spec, demand)
        reference, now = self.references[spec.id], self.clock.now
        if spec.unit not in {"tokens", "money"}:
            return True
        if spec.unit == "money":
            return amount <= held or self.total.used + amount - held <= spec.limit
        if not isinstance(reference, ReferenceWindow):
            most = spec.capacity
            return amount <= held or (
                amount <= most and reference.level(now) + amount - held <= most
            )
        booking = call.bookings[spec.id]
        own = booking.amount if now - booking.at <= reference.window else 0
        if spec.plain:
            grows = amount > held and amount > own
            return not grows or reference.total(now) - own + amount <= spec.limit
        return amount <= held or (
            amount <= spec.limit and reference.total(now) + amount - held <= spec.limit
        )

    def _amend(self, call: Call, spec: MeterSpec, held: int, amount: int) -> None:
        reference, now = self.references[spec.id], self.clock.now
        if not isinstance(reference, ReferenceWindow) or amount <= held:
            self._change(call, spec, amount)
            return
        booking = reference.regrow(call.bookings[spec.id], amount, now, plain=spec.plain)
        booking.held = amount
        call.bookings[spec.id] = booking

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 50), given=AMOUNTS, made=AMOUNTS, money=AMOUNTS)
    def settle(self, which: int, given: int, made: int, money: int) -> None:
        """A call ends and has used something; doing it twice changes nothing."""
        call = self.calls.pop(which % len(self.calls))
        assert call.ticket is not None
        used = Demand(given, made, money)
        call.ticket.settle(given + made, used)
        after = self._states()
        call.ticket.settle(1, Demand(1, 0, 1))
        call.ticket.release()
        self.loop.run_until_complete(call.ticket.amend(7, None, Demand(7, 7, 7)))
        assert self._states() == after, "it was ended twice"
        for spec in call.specs:
            if spec.unit in {"tokens", "money"}:
                amount = needs(spec, used)
                self.over[spec.id] = self.over.get(spec.id, 0) + max(
                    0, amount - needs(spec, call.demand)
                )
                if spec.unit == "tokens":
                    self._change(call, spec, amount)
        self._end_parallel(call)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 50))
    def release(self, which: int) -> None:
        """A call turns out not to have happened."""
        call = self.calls.pop(which % len(self.calls))
        assert call.ticket is not None
        call.ticket.release()
        for spec in call.specs:
            if spec.unit not in {"parallel", "money"}:
                self._change(call, spec, 0)
        self._end_parallel(call)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 50))
    def forget(self, which: int) -> None:
        """A ticket is lost: what was reserved stays counted, and its slots are free."""
        call = self.calls.pop(which % len(self.calls))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            call.ticket = None
            gc.collect()
        self._end_parallel(call)

    @invariant()
    def no_meter_is_above_its_limit_by_more_than_the_bound(self) -> None:
        """By more than what calls have used beyond what they had reserved."""
        for spec in self.specs:
            reference = self.references[spec.id]
            if spec.shadow or not isinstance(reference, ReferenceWindow):
                continue
            most = self.highest[spec.id] + self.over.get(spec.id, 0)
            assert reference.total(self.clock.now) <= most

    @invariant()
    def every_window_holds_what_the_reference_holds(self) -> None:
        """To the token."""
        for spec, state in self._states().items():
            reference = self.references[spec.id]
            now = self.clock.now
            if isinstance(reference, ReferenceWindow):
                assert state.remaining == max(0, spec.limit - reference.total(now)), spec.id
            elif isinstance(reference, ReferenceBucket) and not reference.loose:
                left = math.floor(spec.capacity - reference.level(now))
                assert state.remaining == max(0, left), spec.id

    def teardown(self) -> None:
        """After all calls and a pause nothing is left."""
        while self.calls:
            self.release(0)
        assert not self.total.open
        self.clock.now += 100 * LONG
        for spec, state in self._states().items():
            if spec.unit == "parallel":
                assert state.remaining == spec.limit
            elif spec.unit != "money":
                whole = spec.capacity if spec.shape == "bucket" else spec.limit
                assert (state.remaining, state.reset) == (whole, 0.0), spec.id
        self.loop.run_until_complete(self.limiter.aclose())
        self.loop.close()

    def _refusing(self) -> list[MeterSpec]:
        return [spec for spec in self.specs if not spec.shadow]

    def _fits(self, spec: MeterSpec, demand: Demand) -> bool:
        amount = needs(spec, demand)
        if spec.unit == "parallel":
            return self.parallel.get(spec.id, 0) < spec.limit
        if spec.unit == "money":
            return self.total.used + amount <= spec.limit
        fits: bool = self.references[spec.id].fits(spec, amount, self.clock.now)
        return fits

    def _book(self, spec: MeterSpec, amount: int) -> Any:
        if spec.unit == "parallel":
            self.parallel[spec.id] = self.parallel.get(spec.id, 0) + 1
            return None
        return (
            None if spec.unit == "money" else self.references[spec.id].book(amount, self.clock.now)
        )

    def _change(self, call: Call, spec: MeterSpec, amount: int) -> None:
        reference, booking = self.references[spec.id], call.bookings[spec.id]
        call.bookings[spec.id] = reference.change(booking, amount, self.clock.now)

    def _end_parallel(self, call: Call) -> None:
        for spec in call.specs:
            if spec.unit == "parallel":
                self.parallel[spec.id] -= 1

    def _states(self) -> dict[MeterSpec, MeterState]:
        now = self.clock.now
        return {spec: self._counter(spec).state(spec, now) for spec in self.specs}

    def _counter(self, spec: MeterSpec) -> Counter:
        return self.total if spec.unit == "money" else self.limiter.counter(spec)


def _scaled(spec: MeterSpec, factor: int) -> MeterSpec:
    """A bucket keeps its rate: its reference computes its past with the present one."""
    if spec.shape == "bucket":
        return replace(spec, capacity=spec.capacity * factor)
    return replace(spec, limit=spec.limit * factor)


def _reference(spec: MeterSpec) -> Any:
    if spec.shape == "bucket":
        return ReferenceBucket(spec)
    return None if spec.unit in {"parallel", "money"} else ReferenceWindow(spec.window)
