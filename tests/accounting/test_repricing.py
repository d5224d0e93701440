from __future__ import annotations

from decimal import Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.accounting.rates import capped
from llmgw_core.accounting.repricing import negated, own_usage, repriced
from llmgw_core.config.schema import DeploymentConfig, ModelConfig
from llmgw_core.config.schema_prices import PriceEntry, PriceTier, TierPrices, TokenPrices
from llmgw_core.domain.usage import NO_USAGE, AttemptRecord, Usage, UsageDetails, UsageRecord
from llmgw_core.store.contributions import contributions
from llmgw_core.testing.usage_records import usage_record

tokens = st.integers(min_value=0, max_value=10**6)
details = st.none() | st.builds(
    UsageDetails, **dict.fromkeys(UsageDetails.__struct_fields__, tokens)
)
usages = st.builds(
    Usage,
    input_tokens=tokens,
    output_tokens=tokens,
    cached_input_tokens=tokens,
    reasoning_tokens=tokens,
    source=st.sampled_from(["provider", "estimated"]),
    details=details,
).map(capped)


def book(input: int, **more: object) -> PriceBook:
    tier = PriceTier(above=1_000, cost=TierPrices(output=Decimal(9)))
    prices = TokenPrices(Decimal(input), Decimal(2), call=Decimal("0.5"), image=Decimal("0.1"))
    entry = PriceEntry(cost=prices, tiers=(tier,), **more)  # type: ignore[arg-type]
    deployments = tuple(DeploymentConfig(name=name, backend="b", zone="z") for name in "ab")
    return PriceBook({"m": ModelConfig(deployments, prices=(entry,))})


def booked(prices: PriceBook, paid: list[Usage], own: Usage | None) -> UsageRecord:
    """A call as settlement books it: failed attempts that reported `paid`, then one with `own`."""
    attempts, total = [], NO_USAGE
    for usage in paid:
        price = prices.price("m", "m/a", 0)
        assert price is not None
        cost, charge, id = price.tokens_priced(usage)
        attempts.append(AttemptRecord("m/a", "m", "server", 500, 1, cost, charge, "", id, usage))
        total = usage if total.source == "none" else usage.plus(total)
    if own is not None:
        price = prices.price("m", "m/b", 0)
        assert price is not None
        cost, charge, id = price.priced(own)
        attempts.append(AttemptRecord("m/b", "m", "ok", 200, 1, cost, charge, "", id))
        total = own if total.source == "none" else own.plus(total)
    else:
        attempts.append(AttemptRecord("m/b", "m", "connect", 0, 1, 0, 0))
    return usage_record(
        1,
        model="m",
        deployment="m/b",
        usage=total,
        attempts=tuple(attempts),
        cost=sum(each.cost for each in attempts),
        charge=sum(each.charge for each in attempts),
    )


calls = st.tuples(st.lists(usages, max_size=2), st.none() | usages)


@given(calls)
def test_at_the_same_prices_nothing_changes(call: tuple[list[Usage], Usage | None]) -> None:
    prices = book(1, markup=Decimal(20))
    record = booked(prices, *call)
    found = repriced(record, prices)
    assert not found.changed
    assert found.after is record


@given(calls)
def test_a_call_gets_the_amounts_that_it_would_have_had(
    call: tuple[list[Usage], Usage | None],
) -> None:
    old, new = book(1, markup=Decimal(20)), book(7)
    found = repriced(booked(old, *call), new)
    expected = booked(new, *call)
    assert (found.after.cost, found.after.charge) == (expected.cost, expected.charge)
    for mine, theirs in zip(found.after.attempts, expected.attempts, strict=True):
        assert (mine.cost, mine.charge) == (theirs.cost, theirs.charge)
    assert found.after.usage == expected.usage


@given(calls)
def test_a_reversal_and_what_it_takes_back_add_up_to_nothing(
    call: tuple[list[Usage], Usage | None],
) -> None:
    found = repriced(booked(book(1), *call), book(3))
    reversal, rebooking = found.entries(2)
    assert all(not any(sums) for sums in contributions([found.before, reversal]).values())
    sums = contributions([found.before, reversal, rebooking])
    left = {key: group for key, group in sums.items() if any(group)}
    only = {key: group for key, group in contributions([rebooking]).items() if any(group)}
    assert left == only


def test_the_entries_of_a_call_are_told_apart_by_their_number() -> None:
    record = booked(book(1), [], Usage(10, 10))
    reversal, rebooking = repriced(record, book(2)).entries(1)
    assert (reversal.call_id, reversal.entry, reversal.corrects) == (
        "call-1~r1",
        "reversal",
        "call-1",
    )
    assert (rebooking.call_id, rebooking.entry, rebooking.corrects) == (
        "call-1~b1",
        "rebooking",
        "call-1",
    )
    assert reversal.started_ns == rebooking.started_ns == record.started_ns
    again, _ = repriced(rebooking, book(3)).entries(2)
    assert (again.call_id, again.corrects, again.cost) == ("call-1~r2", "call-1", -rebooking.cost)
    assert negated(negated(record)) == record


def test_what_had_no_price_gets_one_even_if_it_is_nothing() -> None:
    record = booked(book(1), [], Usage(10, 10))
    [attempt] = record.attempts
    free = msgspec.structs.replace(attempt, cost=0, charge=0, price="")
    unpriced = msgspec.structs.replace(record, attempts=(free,), cost=0, charge=0)
    entry = PriceEntry(cost=TokenPrices())
    model = ModelConfig((DeploymentConfig(name="b", backend="b", zone="z"),), prices=(entry,))
    found = repriced(unpriced, PriceBook({"m": model}))
    assert found.changed
    assert found.after.attempts[0].price in found.sheets
    assert found.after.cost == 0


def test_what_has_no_price_any_more_keeps_what_it_had() -> None:
    record = booked(book(1), [Usage(5, 5)], Usage(10, 10))
    found = repriced(record, PriceBook({}))
    assert not found.changed
    assert found.unknown == ("m/a", "m/b")


def test_a_call_that_used_nothing_costs_nothing() -> None:
    record = usage_record(1, usage=NO_USAGE, cost=0, charge=0)
    assert not repriced(record, book(1)).changed
    nobody = usage_record(2, usage=NO_USAGE, cost=0, charge=0, attempts=())
    assert not repriced(nobody, book(1)).changed
    answered = booked(book(1), [Usage(5, 5)], None)
    assert own_usage(answered, 1) is None
    assert own_usage(answered, 0) is None
