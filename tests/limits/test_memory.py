from __future__ import annotations

import contextlib
import gc
import warnings
from typing import Any

import pytest

from llmgw_core.limits.counters import Parallel
from llmgw_core.limits.headers import ratelimit_lines
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.limits.port import (
    Demand,
    Exceeded,
    MeterSpec,
    Unsupported,
    bind,
    lacking_ability,
)
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.limiter_reference import Total
from llmgw_core.testing.limiter_suite import LimiterSuite


def rpm(limit: int, name: str = "team:t:rpm") -> MeterSpec:
    return MeterSpec(name, "team", "requests", limit)


def tpm(limit: int, name: str = "team:t:tpm") -> MeterSpec:
    return MeterSpec(name, "team", "tokens", limit)


def parallel(limit: int, name: str = "team:t:parallel") -> MeterSpec:
    return MeterSpec(name, "team", "parallel", limit)


async def use(limiter: MemoryLimiter, spec: MeterSpec, tokens: int = 0) -> None:
    (await limiter.reserve(limiter.bind([spec]), tokens)).settle(tokens)


async def test_meters_that_nobody_is_bound_to_are_collected_once_their_window_is_empty() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    most = 0
    for number in range(20_000):
        clock.now += 0.1
        await use(limiter, rpm(5, f"key:{number}:rpm"))
        most = max(most, len(limiter))
    assert 600 <= most < 1000, "some 605 keys are in a window at any time"


@pytest.mark.parametrize("full", [rpm(1, "full"), tpm(40, "full"), parallel(1, "full")])
async def test_a_refusal_counts_nothing_wherever_the_room_was_lacking(full: MeterSpec) -> None:
    limiter = MemoryLimiter(FakeClock())
    roomy = [rpm(9), rpm(9, "user:rpm"), tpm(99), tpm(99, "user:tpm"), parallel(9)]
    first = await limiter.reserve(limiter.bind([full]), 30)
    for specs in ([*roomy, full], [full, *roomy]):
        bound = limiter.bind(specs)
        with pytest.raises(Exceeded):
            await limiter.reserve(bound, 30)
        left = {spec.id: state.remaining for spec, state in limiter.states(bound)}
        assert left == {
            **{spec.id: spec.limit for spec in roomy},
            "full": 10 if full.unit == "tokens" else 0,
        }
    first.settle(30)


async def test_a_meter_that_is_still_counting_is_not_collected() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    await use(limiter, rpm(1))
    for number in range(1000):
        clock.now += 0.05
        await use(limiter, rpm(5, f"key:{number}:rpm"))
    with pytest.raises(Exceeded):
        await use(limiter, rpm(1))


async def test_a_meter_with_a_call_in_flight_is_not_collected() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    ticket = await limiter.reserve(limiter.bind([parallel(1)]), 0)
    for number in range(1000):
        clock.now += 1
        await use(limiter, rpm(5, f"key:{number}:rpm"))
    with pytest.raises(Exceeded):
        await use(limiter, parallel(1))
    ticket.settle(0)
    await use(limiter, parallel(1))


async def test_a_cached_binding_and_a_new_one_count_together_after_a_long_silence() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    cached = limiter.bind([rpm(1)])
    for number in range(1000):
        clock.now += 1
        await use(limiter, rpm(5, f"key:{number}:rpm"))
    (await limiter.reserve(cached, 0)).settle(0)
    with pytest.raises(Exceeded):
        await use(limiter, rpm(1))


async def test_binding_many_new_meters_at_once_keeps_all_of_them() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    specs = [rpm(1, f"key:{number}:rpm") for number in range(20)]
    bound = limiter.bind(specs)
    (await limiter.reserve(bound, 0)).settle(0)
    for spec in specs:
        with pytest.raises(Exceeded):
            await use(limiter, spec)


async def test_closing_forgets_the_meters() -> None:
    limiter = MemoryLimiter(FakeClock())
    await use(limiter, rpm(5))
    await limiter.aclose()
    assert len(limiter) == 0


def test_an_id_counts_one_unit_only() -> None:
    limiter = MemoryLimiter(FakeClock())
    limiter.bind([rpm(1, "same")])
    with pytest.raises(ValueError, match="'same' counts requests, not tokens"):
        limiter.bind([tpm(1, "same")])


async def test_another_window_reshapes_the_meter_and_keeps_its_counts() -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    await use(limiter, rpm(1))
    longer = MeterSpec("team:t:rpm", "team", "requests", 1, 3600.0)
    clock.now += 59
    with pytest.raises(Exceeded) as refused:
        await use(limiter, longer)
    assert 3600 - 60 < refused.value.retry_after < 3600


async def test_a_forgotten_reservation_warns_and_gives_its_parallel_slots_back() -> None:
    limiter = MemoryLimiter(FakeClock())
    ticket = await limiter.reserve(limiter.bind([parallel(1)]), 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del ticket
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    await use(limiter, parallel(1))


async def test_a_reservation_reads_the_clock_once() -> None:
    readings = 0

    def clock() -> float:
        nonlocal readings
        readings += 1
        return 1000.0

    limiter = MemoryLimiter(clock)
    bound = limiter.bind([rpm(1), tpm(1), parallel(1)])
    readings = 0
    ticket = await limiter.reserve(bound, 1)
    assert readings == 1
    with pytest.raises(Exceeded):
        await limiter.reserve(bound, 1)
    assert readings == 2
    ticket.settle(1)


def test_a_reservation_never_suspends() -> None:
    limiter = MemoryLimiter(FakeClock())
    coroutine = limiter.reserve(limiter.bind([rpm(1), tpm(1), parallel(1)]), 1)
    with pytest.raises(StopIteration) as finished:
        coroutine.send(None)
    finished.value.value.settle(1)


class TestMemoryLimiter(LimiterSuite):
    def make_limiter(self, clock: FakeClock) -> MemoryLimiter:
        return MemoryLimiter(clock)


async def test_meters_of_somebody_else_are_reserved_in_the_same_step_and_only_for_this_call() -> (
    None
):
    limiter = MemoryLimiter(FakeClock())
    session, budget = MeterSpec("s", "key", "parallel", 1), MeterSpec("b", "key", "money", 9)
    slots, total = Parallel(), Total()
    bound = limiter.bind([rpm(5)], [(budget, total)])
    demand = Demand(1, 1, 9, also=((session, slots),))
    ticket = limiter.reserve_now(bound, 2, demand)
    assert (total.used, slots.used) == (9, 1)
    assert [spec.id for spec, _ in limiter.states(bound)] == ["team:t:rpm", "b"]
    for need in (Demand(1, 1, 0, also=((session, slots),)), Demand(1, 1, 1)):
        with pytest.raises(Exceeded):
            limiter.reserve_now(bound, 2, need)
    assert limiter.states(bound)[0][1].remaining == 4
    ticket.settle(2, Demand(1, 1, 4))
    assert total.used == 4
    ticket = limiter.reserve_now(bound, 2)  # without a demand there is no money
    ticket.release()
    assert (total.used, total.open) == (4, {})


def test_an_id_that_counts_something_else_is_a_mistake() -> None:
    limiter = MemoryLimiter(FakeClock())
    limiter.bind([tpm(5)])
    with pytest.raises(ValueError, match="not input tokens by a window"):
        limiter.bind([MeterSpec("team:t:tpm", "team", "tokens", 5, kind="input")])


def test_what_a_limiter_lacks_is_said() -> None:
    class Plain:
        abilities = frozenset({"kinds"})

    limiter: Any = Plain()
    assert lacking_ability(limiter, [rpm(5)]) == ""
    assert lacking_ability(limiter, [MeterSpec("i", "key", "tokens", 5, kind="input")]) == ""
    for spec, missing in (
        (MeterSpec("b", "key", "tokens", 5, shape="bucket", capacity=1), "bucket"),
        (MeterSpec("p", "key", "money", 5), "meters"),
        (MeterSpec("s", "key", "tokens", 5, shadow=True), "shadow"),
    ):
        assert lacking_ability(limiter, [spec]).endswith(f"{spec.id}: it lacks {missing}.")
    with pytest.raises(Unsupported, match="cannot count b: it lacks meters"):
        bind(limiter, [], [(MeterSpec("b", "key", "money", 5), Total())])


@pytest.mark.parametrize("seconds", [0.5, 1, 1.5, 10, 60, 90, 600, 3600])
@pytest.mark.parametrize("limit", [3, 1000])
async def test_lines_of_a_head_say_what_the_state_says(seconds: float, limit: int) -> None:
    clock = FakeClock()
    limiter = MemoryLimiter(clock)
    bound = limiter.bind(
        [
            MeterSpec("key", "key", "requests", limit, seconds),
            MeterSpec("team", "team", "requests", limit + 1, 60.0),
            MeterSpec("tokens", "team", "tokens", limit, seconds),
        ]
    )
    assert limiter.lines(limiter.bind([])) == b""
    one = limiter.bind([MeterSpec("tokens", "team", "tokens", limit, seconds)])
    input_only = limiter.bind(
        [
            MeterSpec("team", "team", "requests", limit + 1, 60.0),
            MeterSpec("input", "team", "tokens", limit, seconds, kind="input"),
        ]
    )
    assert b"tokens" in limiter.lines(input_only), "meters that are not plain are told of, too"
    for number in range(400):
        if number % 7 == 0:
            with contextlib.suppress(Exceeded):
                (await limiter.reserve(bound, 1)).settle(limit if number % 3 else 0)
        for each in (bound, one, input_only):
            assert limiter.lines(each) == ratelimit_lines(*limiter.state(each))
        clock.now += seconds / 64 * (number % 5)
