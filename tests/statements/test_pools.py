"""What is paid by the month is shared out in full, by weighted tokens."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.schema_statements import PoolConfig, StatementsConfig
from llmgw_core.domain.usage import Usage
from llmgw_core.statements.composing import Composer, Named
from llmgw_core.statements.periods import HOUR_NS, month
from llmgw_core.statements.pools import (
    PoolUse,
    decimal,
    largest_remainder,
    pool_lines,
    pool_span,
    weighted,
)
from llmgw_core.statements.service import Statements
from llmgw_core.store.ledger import Ledger
from llmgw_core.store.statement_sums import PeriodSums
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet

if TYPE_CHECKING:
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import PoolShare
    from llmgw_core.store.engine import Store

MARCH = month("2027-03", "Europe/Berlin")
COMPOSER = Composer(2, {}, {"a": Named("CC-A", "A", "")})
FREE = sheet(rates(0, 0))


def used(center: str, input: int = 0, output: int = 0, cached: int = 0, **more: str) -> PeriodSums:
    sums = {"input_tokens": input, "output_tokens": output, "cached_input_tokens": cached}
    return PeriodSums(center, more.get("model", "m"), more.get("at", "m/gpu"), "", 1, sums)


def pool(monthly: str = "4000", **fields: object) -> PoolConfig:
    return PoolConfig(Decimal(monthly), deployments=("m/gpu",), **fields)  # type: ignore[arg-type]


def shared(config: PoolConfig, *groups: PeriodSums) -> tuple[PoolShare, list[Line]]:
    since, until = pool_span(config, MARCH)
    return pool_lines(PoolUse("gpu", config, since, until, groups), MARCH, "st_1", COMPOSER)


def test_each_class_counts_by_its_weight_and_a_part_like_what_it_is_a_part_of() -> None:
    weights = {"input": Decimal(1), "output": Decimal(3), "cached_input": Decimal("0.1")}
    sums = {
        "input_tokens": 1000,
        "cached_input_tokens": 400,
        "output_tokens": 200,
        "reasoning_tokens": 50,
        "calls": 7,
    }
    groups = [PeriodSums("a", "m", "m/gpu", "", 1, sums)]
    use = PoolUse("gpu", pool(weights=weights), 0, 1, groups)
    assert weighted(use) == {"a": Fraction(600 + 40 + 600)}


def test_only_what_the_pool_serves_counts() -> None:
    config = PoolConfig(Decimal(1), deployments=("m/gpu",), models=("n",))
    groups = [used("a", 1), used("b", 2, at="m/cloud"), used("c", 4, model="n", at="n/x")]
    assert weighted(PoolUse("gpu", config, 0, 1, groups)) == {"a": 1, "c": 4}


def test_without_a_capacity_everything_is_shared_out() -> None:
    share, lines = shared(pool("100"), used("a", 1), used("b", 1), used("c", 1))
    assert [(line.kind, line.cost) for line in lines] == [
        ("pool", 33_340_000_000),
        ("pool", 33_330_000_000),
        ("pool", 33_330_000_000),
    ]
    assert (share.cost, share.idle, share.capacity) == (100 * 10**9, 0, None)
    assert [(line.code, line.charge == line.cost) for line in lines] == [
        ("CC-A", True), ("b", True), ("c", True),
    ]  # fmt: skip


def test_what_is_not_used_of_the_capacity_is_nobodys() -> None:
    config = pool("743", capacity=Decimal(10))
    share, lines = shared(config, used("a", 743), used("", 0, 743))
    assert [(line.kind, line.cost_center, line.cost, line.charge) for line in lines] == [
        ("pool", "", 74_300_000_000, 74_300_000_000),
        ("pool", "a", 74_300_000_000, 74_300_000_000),
        ("idle", "", 594_400_000_000, 0),
    ]
    assert (share.used, share.capacity, share.idle) == ("1486", "7430", 594_400_000_000)


def test_who_uses_more_than_the_capacity_pays_all_of_it() -> None:
    share, lines = shared(pool("10", capacity=Decimal("0.5")), used("a", 1000))
    assert [(line.kind, line.cost) for line in lines] == [("pool", 10 * 10**9)]
    assert share.idle == 0


@pytest.mark.parametrize("capacity", [None, Decimal(5)])
def test_a_pool_that_nobody_uses_is_idle_as_a_whole(capacity: Decimal | None) -> None:
    share, lines = shared(pool("10", capacity=capacity))
    assert [(line.kind, line.cost) for line in lines] == [("idle", 10 * 10**9)]
    assert share.idle == share.cost


def test_a_month_that_is_not_covered_is_paid_by_its_share_of_hours() -> None:
    since = dt.date(2027, 3, 28)  # 23 hours long in Berlin
    share, _ = shared(pool("743", valid_from=since, valid_until=dt.date(2027, 3, 29)), used("a", 1))
    assert (share.cost, share.hours) == (23 * 10**9, "23")
    whole, _ = shared(pool("743", valid_from=dt.date(2020, 1, 1)), used("a", 1))
    assert (whole.cost, whole.hours) == (743 * 10**9, "743")


@given(
    st.integers(0, 10**12),
    st.lists(st.fractions(0, 10**9), min_size=1, max_size=20).filter(any),
)
def test_the_shares_are_the_whole_and_none_is_off_by_a_step(
    whole: int, weights: list[Fraction]
) -> None:
    parts = largest_remainder(whole, weights)
    total = sum(weights, Fraction(0))
    assert sum(parts) == whole
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - whole * weight / total) < 1


@given(
    st.decimals(0, 10**6, places=2),
    st.none() | st.integers(1, 10**6),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 10**9)), max_size=8),
)
def test_lines_of_a_pool_add_up_to_what_it_costs(
    monthly: Decimal, capacity: int | None, usage: list[tuple[str, int]]
) -> None:
    config = pool(str(monthly), capacity=None if capacity is None else Decimal(capacity))
    share, lines = shared(config, *(used(center, tokens) for center, tokens in usage))
    assert sum(line.cost for line in lines) == share.cost == int(monthly * 10**9)
    assert sum(line.charge for line in lines) == share.cost - share.idle
    assert all(line.cost >= 0 for line in lines)


def test_numbers_are_written_with_the_decimals_that_they_need() -> None:
    assert [decimal(Fraction(n)) for n in ("0", "12", "1/4", "100")] == ["0", "12", "0.25", "100"]


async def test_a_pool_is_in_the_statement_beside_what_calls_cost(store: Store) -> None:
    config = StatementsConfig(
        timezone="Europe/Berlin",
        pools={
            "gpu": PoolConfig(
                Decimal("4000.01"),
                models=("small",),
                capacity=Decimal(100),
                valid_from=dt.date(2027, 3, 16),
            ),
            "past": PoolConfig(Decimal(9), models=("small",), valid_until=dt.date(2027, 3, 1)),
        },
    )
    clock = MARCH.end_ns / 1e9 + 7200
    statements = Statements(store, config, currency="EUR", clock=lambda: clock)
    middle = MARCH.start_ns + 15 * 24 * HOUR_NS
    await book(
        store,
        Ledger(store),
        [
            priced(0, FREE, Usage(999, 0), started_ns=middle - 1, cost_center="a"),
            priced(1, FREE, Usage(3000, 0), started_ns=middle, cost_center="a"),
            priced(2, FREE, Usage(1000, 0), started_ns=middle, cost_center="b"),
        ],
        FREE,
    )
    made = await statements.create("2027-03", actor="test")
    [share] = made.summary.pools
    # 383 of 743 hours: the 28th has 23.
    assert (share.hours, share.cost) == ("383", 2_061_916_326_000)
    lines = [line for line in await statements.lines(made) if line.kind != "usage"]
    assert [(line.kind, line.cost_center, line.quantity) for line in lines] == [
        ("pool", "a", 3000), ("pool", "b", 1000), ("idle", "", 34300),
    ]  # fmt: skip
    assert sum(line.cost for line in lines) == share.cost
    assert made.summary.cost == share.cost
    assert made.summary.charge == share.cost - share.idle
    assert (await statements.close("2027-03", actor="test")).summary.checks[0].lines_cost == 0
