"""The conformance suite of the limiter port: what every implementation must do.

An implementation's tests subclass `LimiterSuite` and say how a limiter is made with a given
clock; pytest collects the inherited sentences. The random part is in `limiter_machine`.
"""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

import gc
import math
import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from llmgw_core.limits.port import Exceeded, MeterSpec, MeterState
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.limiter_machine import LimiterMachine

if TYPE_CHECKING:
    from llmgw_core.limits.port import Limiter, MeterUnit

EXAMPLES = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def meter(unit: MeterUnit, limit: int, owner: str = "team:t") -> MeterSpec:
    """A meter of 60 seconds."""
    return MeterSpec(f"{owner}:{unit}", owner.partition(":")[0], unit, limit)


class LimiterSuite(ABC):
    """Subclass it, name the subclass `Test...`, and implement `make_limiter`."""

    precision = 0.5
    """Seconds by which the implementation may count longer than the window."""

    @abstractmethod
    def make_limiter(self, clock: FakeClock) -> Limiter:
        """A limiter without any counts, whose time is `clock`."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def limiter(self, clock: FakeClock) -> Limiter:
        return self.make_limiter(clock)

    @pytest.mark.parametrize("seconds", [60.0, 2.0])
    def test_no_interleaving_breaks_a_limit_or_leaks(self, seconds: float) -> None:
        suite = self

        class Machine(LimiterMachine):
            make = staticmethod(suite.make_limiter)
            precision = suite.precision
            window = seconds

        run_state_machine_as_test(Machine, settings=EXAMPLES)

    async def test_without_meters_everything_is_admitted(self, limiter: Limiter) -> None:
        bound = limiter.bind([])
        (await limiter.reserve(bound, 10**9)).settle(10**9)
        assert limiter.state(bound) == (None, None)

    async def test_a_request_counts_until_sixty_seconds_are_over_and_not_much_longer(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        bound = limiter.bind([meter("requests", 1)])
        for offset in (0.0, 0.25, 0.499, 0.75):
            start = clock.now = math.ceil(clock.now) + 100 + offset
            (await limiter.reserve(bound, 0)).settle(0)
            clock.now = start + 59.999
            with pytest.raises(Exceeded):
                await limiter.reserve(bound, 0)
            clock.now = start + 60 + self.precision
            (await limiter.reserve(bound, 0)).settle(0)

    async def test_when_one_meter_has_no_room_none_counts(self, limiter: Limiter) -> None:
        roomy = [meter("requests", 5, "user:u"), meter("tokens", 500, "user:u")]
        tight = meter("tokens", 100)
        with pytest.raises(Exceeded) as refused:
            await limiter.reserve(limiter.bind([*roomy, tight]), 101)
        assert refused.value.spec == tight
        requests, tokens = limiter.state(limiter.bind(roomy))
        assert requests == MeterState(5, 5, 0.0)
        assert tokens == MeterState(500, 500, 0.0)

    async def test_the_refusal_names_the_meter_with_the_longest_wait(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        early, late = meter("requests", 1, "user:u"), meter("requests", 1, "model:m")
        (await limiter.reserve(limiter.bind([early]), 0)).settle(0)
        clock.now += 30
        (await limiter.reserve(limiter.bind([late]), 0)).settle(0)
        full = meter("parallel", 1)
        ticket = await limiter.reserve(limiter.bind([full]), 0)
        for order in ([early, late, full], [full, late, early]):
            with pytest.raises(Exceeded) as refused:
                await limiter.reserve(limiter.bind(order), 0)
            assert refused.value.spec == late
            assert 60 <= refused.value.retry_after <= 60.01 + self.precision
        ticket.release()

    async def test_more_tokens_than_the_limit_never_fit(self, limiter: Limiter) -> None:
        specs = [meter("tokens", 100), meter("requests", 1)]
        (await limiter.reserve(limiter.bind(specs), 100)).settle(100)
        with pytest.raises(Exceeded) as refused:
            await limiter.reserve(limiter.bind(specs), 101)
        assert refused.value.never
        assert refused.value.spec == specs[0]
        assert math.isfinite(refused.value.retry_after)

    @pytest.mark.parametrize("unit", ["requests", "tokens", "parallel"])
    async def test_a_limit_of_zero_forbids_every_call(
        self, limiter: Limiter, unit: MeterUnit
    ) -> None:
        with pytest.raises(Exceeded) as refused:
            await limiter.reserve(limiter.bind([meter(unit, 0)]), 0)
        assert refused.value.never

    async def test_all_parallel_slots_taken_suggests_a_second(self, limiter: Limiter) -> None:
        bound = limiter.bind([meter("parallel", 1)])
        ticket = await limiter.reserve(bound, 0)
        with pytest.raises(Exceeded) as refused:
            await limiter.reserve(bound, 0)
        assert refused.value.retry_after == 1.0
        assert not refused.value.never
        ticket.settle(0)
        (await limiter.reserve(bound, 0)).settle(0)

    async def test_negative_tokens_are_a_mistake_of_the_caller(self, limiter: Limiter) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        with pytest.raises(ValueError, match="negative"):
            await limiter.reserve(bound, -1)
        ticket = await limiter.reserve(bound, 10)
        with pytest.raises(ValueError, match="negative"):
            await ticket.amend(-1)
        ticket.settle(-1)
        _, tokens = limiter.state(bound)
        assert tokens == MeterState(100, 100, 0.0)

    async def test_counts_survive_binding_with_other_limits(self, limiter: Limiter) -> None:
        (await limiter.reserve(limiter.bind([meter("tokens", 100)]), 80)).settle(80)
        raised = limiter.bind([meter("tokens", 200)])
        _, tokens = limiter.state(raised)
        assert tokens is not None
        assert (tokens.limit, tokens.remaining) == (200, 120)
        lowered = limiter.bind([meter("tokens", 50)])
        _, tokens = limiter.state(lowered)
        assert tokens is not None
        assert (tokens.limit, tokens.remaining) == (50, 0)
        with pytest.raises(Exceeded) as refused:
            await limiter.reserve(lowered, 1)
        assert not refused.value.never

    async def test_one_id_given_twice_counts_once_with_the_smaller_limit(
        self, limiter: Limiter
    ) -> None:
        bound = limiter.bind([meter("requests", 3), meter("requests", 2), meter("requests", 4)])
        for _ in range(2):
            (await limiter.reserve(bound, 0)).settle(0)
        with pytest.raises(Exceeded):
            await limiter.reserve(bound, 0)

    async def test_settling_replaces_the_estimate_and_may_exceed_the_limit(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        bound = limiter.bind([meter("tokens", 100), meter("requests", 100)])
        (await limiter.reserve(bound, 60)).settle(20)
        (await limiter.reserve(bound, 80)).settle(500)
        requests, tokens = limiter.state(bound)
        assert requests is not None
        assert tokens is not None
        assert requests.remaining == 98
        assert tokens.remaining == 0
        with pytest.raises(Exceeded) as refused:
            await limiter.reserve(bound, 1)
        assert refused.value.retry_after >= 60
        clock.now += refused.value.retry_after
        (await limiter.reserve(bound, 100)).settle(100)

    async def test_releasing_gives_everything_back(self, limiter: Limiter) -> None:
        bound = limiter.bind([meter("tokens", 9), meter("requests", 1), meter("parallel", 1)])
        for _ in range(3):
            (await limiter.reserve(bound, 9)).release()
        assert limiter.state(bound) == (MeterState(1, 1, 0.0), MeterState(9, 9, 0.0))

    async def test_the_first_of_settle_and_release_wins(self, limiter: Limiter) -> None:
        bound = limiter.bind([meter("tokens", 100), meter("parallel", 1)])
        ticket = await limiter.reserve(bound, 10)
        ticket.settle(30)
        ticket.release()
        ticket.settle(90)
        await ticket.amend(90)
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 70
        released = await limiter.reserve(bound, 10)
        released.release()
        released.settle(50)
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 70

    async def test_a_long_stream_counts_at_its_end_what_exceeds_the_estimate(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        longer, shorter = await limiter.reserve(bound, 10), await limiter.reserve(bound, 10)
        clock.now += 600
        shorter.settle(1)
        longer.settle(95)
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 15

    async def test_an_amendment_counts_the_difference(self, limiter: Limiter) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        ticket = await limiter.reserve(bound, 60)
        await ticket.amend(100)
        with pytest.raises(Exceeded) as refused:
            await ticket.amend(101)
        assert refused.value.never
        await ticket.amend(70)
        (await limiter.reserve(bound, 30)).settle(30)
        with pytest.raises(Exceeded):
            await ticket.amend(71)
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 0
        ticket.release()
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 70

    async def test_an_amendment_adds_the_meters_that_are_not_held_yet(
        self, limiter: Limiter
    ) -> None:
        team = [meter("requests", 9), meter("tokens", 100), meter("parallel", 9)]
        other = [meter(unit, 1, "model:m") for unit in ("requests", "parallel")]
        ticket = await limiter.reserve(limiter.bind(team), 10)
        await ticket.amend(10, limiter.bind([*team, *other]))
        requests, tokens = limiter.state(limiter.bind(team))
        assert requests is not None
        assert tokens is not None
        assert (requests.remaining, tokens.remaining) == (8, 90)
        with pytest.raises(Exceeded):
            await limiter.reserve(limiter.bind(other), 0)
        ticket.release()
        (await limiter.reserve(limiter.bind(other), 0)).settle(0)

    async def test_an_amendment_upwards_counts_anew_from_then_on(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        ticket = await limiter.reserve(bound, 40)
        clock.now += 50
        await ticket.amend(80)
        clock.now += 50
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 20
        ticket.settle(30)
        _, tokens = limiter.state(bound)
        assert tokens is not None
        assert tokens.remaining == 70
        assert 10 <= tokens.reset <= 10 + self.precision

    @pytest.mark.parametrize("tokens", [40, 39])
    async def test_an_amendment_not_upwards_counts_from_when_it_did(
        self, limiter: Limiter, clock: FakeClock, tokens: int
    ) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        ticket = await limiter.reserve(bound, 40)
        clock.now += 50
        await ticket.amend(tokens, bound)
        clock.now += 10 + self.precision
        assert limiter.state(bound)[1] == MeterState(100, 100, 0.0)
        ticket.settle(tokens)

    async def test_a_meter_that_others_overdrew_does_not_hinder_going_to_another_model(
        self, limiter: Limiter
    ) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        ticket, other = await limiter.reserve(bound, 40), await limiter.reserve(bound, 40)
        other.settle(500)
        await ticket.amend(40, limiter.bind([meter("requests", 1, "model:m")]))
        with pytest.raises(Exceeded):
            await ticket.amend(41)
        ticket.settle(40)

    async def test_meters_that_were_added_count_the_end_of_a_long_stream_too(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        added = limiter.bind([meter("tokens", 100, "model:m")])
        ticket = await limiter.reserve(limiter.bind([]), 10)
        await ticket.amend(10, added)
        clock.now += 100
        ticket.settle(50)
        for wait in (0, 59):
            clock.now += wait
            _, tokens = limiter.state(added)
            assert tokens is not None
            assert tokens.remaining == 60

    async def test_an_amendment_after_a_long_pause_counts_for_a_whole_window(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        bound = limiter.bind([meter("tokens", 100)])
        ticket = await limiter.reserve(bound, 40)
        clock.now += 100
        await ticket.amend(60)
        for wait in (0, 59):
            clock.now += wait
            _, tokens = limiter.state(bound)
            assert tokens is not None
            assert tokens.remaining == 40
        ticket.settle(60)

    async def test_a_refused_amendment_changes_nothing(self, limiter: Limiter) -> None:
        team, other = [meter("tokens", 100)], [meter("parallel", 1, "model:m")]
        holder = await limiter.reserve(limiter.bind(other), 0)
        ticket = await limiter.reserve(limiter.bind(team), 10)
        with pytest.raises(Exceeded) as refused:
            await ticket.amend(20, limiter.bind(other))
        assert refused.value.spec == other[0]
        _, tokens = limiter.state(limiter.bind(team))
        assert tokens is not None
        assert tokens.remaining == 90
        ticket.settle(10)
        holder.settle(0)
        (await limiter.reserve(limiter.bind(other), 0)).settle(0)

    async def test_the_state_is_that_of_the_meter_with_the_least_remaining(
        self, limiter: Limiter, clock: FakeClock
    ) -> None:
        wide, narrow = meter("tokens", 1000, "user:u"), meter("tokens", 300)
        (await limiter.reserve(limiter.bind([wide]), 900)).settle(900)
        clock.now += 20
        (await limiter.reserve(limiter.bind([narrow]), 100)).settle(100)
        _, tokens = limiter.state(limiter.bind([narrow, wide]))
        assert tokens is not None
        assert (tokens.limit, tokens.remaining) == (1000, 100)
        assert 40 <= tokens.reset <= 40 + self.precision

    async def test_a_forgotten_reservation_warns_and_frees_its_parallel_slots(
        self, limiter: Limiter
    ) -> None:
        bound = limiter.bind([meter("parallel", 1), meter("requests", 5)])
        ticket = await limiter.reserve(bound, 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del ticket
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]
        (await limiter.reserve(bound, 0)).settle(0)
        requests, _ = limiter.state(bound)
        assert requests is not None
        assert requests.remaining == 3

    async def test_closing_can_be_repeated(self, limiter: Limiter) -> None:
        await limiter.aclose()
        await limiter.aclose()
