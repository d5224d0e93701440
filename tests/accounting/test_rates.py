from __future__ import annotations

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.accounting.price_sheet import CLASSES, MILLION, ClassRates, PriceSheet, rounded
from llmgw_core.accounting.prices import Price, TieredPrice, price_of
from llmgw_core.accounting.rates import DetailedRates, Rates, capped, odd, rates_of
from llmgw_core.domain.usage import Usage, UsageDetails

NAMES = [each.name for each in CLASSES]
DETAILS = UsageDetails.__struct_fields__
tokens = st.integers(min_value=0, max_value=10**6)
nanos = st.integers(min_value=-(10**9), max_value=10**12)
sides = st.builds(ClassRates, **dict.fromkeys(NAMES, nanos))
usages = st.builds(
    Usage,
    input_tokens=tokens,
    output_tokens=tokens,
    cached_input_tokens=tokens,
    reasoning_tokens=tokens,
    details=st.none() | st.builds(UsageDetails, **dict.fromkeys(DETAILS, tokens)),
)


def sums(usage: Usage, calls: int = 1) -> dict[str, int]:
    """A usage as the books add it up."""
    details = usage.details or UsageDetails()
    plain = ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens")
    return {
        "calls": calls,
        **{name: getattr(usage, name) for name in plain},
        **{name: getattr(details, name) for name in DETAILS},
    }


def rates(**given: int) -> ClassRates:
    """Rates of 1000 for tokens and 0 for the rest, except for what is given."""
    tokens = {each.name: 1_000 if each.parent else 0 for each in CLASSES}
    return ClassRates(**{**tokens, "input": 1_000, "output": 1_000, **given})


@given(sides, usages)
def test_an_amount_is_the_sum_over_all_classes_rounded_once(side: ClassRates, usage: Usage) -> None:
    sheet = PriceSheet(currency="USD", cost=side, charge=side)
    lines = sheet.amounts_by_class(sums(capped(usage)))
    assert DetailedRates(side).amount(usage) == rounded(sum(line.cost for line in lines))


@given(nanos, nanos, nanos, nanos, usages)
def test_the_quick_arithmetic_agrees_with_the_thorough_one(
    input: int, cached: int, output: int, call: int, usage: Usage
) -> None:
    inputs = dict.fromkeys(("input", "cache_write", "audio_input", "image_input"), input)
    outputs = {
        each.name: output for each in CLASSES if each.parent == "output" or each.name == "output"
    }
    side = ClassRates(**inputs, **outputs, cached_input=cached, call=call, image=0)
    assert type(rates_of(side)) is Rates
    assert rates_of(side).amount(usage) == DetailedRates(side).amount(usage)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"input", "output"}])
def test_whatever_class_has_a_price_of_its_own_is_charged_at_it(name: str) -> None:
    one = {each.name: each.column for each in CLASSES}[name]
    usage = Usage(input_tokens=10, output_tokens=10)
    if one in DETAILS:
        usage = msgspec.structs.replace(usage, details=UsageDetails(**{one: 3}))
    elif one != "calls":
        usage = msgspec.structs.replace(usage, **{one: 3})
    ordinary = rates_of(rates()).amount(usage)
    dear = rates_of(rates(**{name: 5_000_000})).amount(usage)
    extra = {"call": 5_000_000, "image": 15_000_000}.get(name, 15)
    assert dear - ordinary == extra


@given(usages)
def test_parts_are_never_more_than_what_they_are_parts_of(usage: Usage) -> None:
    found = capped(usage)
    each = sums(found)
    inputs = ("cached_input", "cache_write", "audio_input", "image_input")
    assert sum(each[f"{name}_tokens"] for name in inputs) <= found.input_tokens
    outputs = ("audio_output", "image_output", "accepted_prediction", "rejected_prediction")
    parts = sum(each[f"{name}_tokens"] for name in outputs) + found.reasoning_tokens
    assert parts <= found.output_tokens
    assert (found.input_tokens, found.output_tokens) == (usage.input_tokens, usage.output_tokens)
    assert capped(found) == found


def test_a_usage_that_is_in_order_is_not_touched() -> None:
    plain = Usage(10, 10, 10, 10)
    assert not odd(plain)
    assert capped(plain) is plain
    assert odd(Usage(10, 10, 11))
    assert odd(Usage(10, 10, 0, 11))
    assert capped(Usage(10, 10, 11, 11, "estimated", "learned")) == Usage(
        10, 10, 10, 10, "estimated", "learned"
    )


@pytest.mark.parametrize(
    ("tokens", "rate"), [(0, 1), (200_000, 1), (200_001, 2), (400_000, 2), (400_001, 3)]
)
def test_the_whole_call_has_the_price_of_its_length(tokens: int, rate: int) -> None:
    tiers = [
        PriceSheet(currency="USD", cost=rates(input=n * 10**6), charge=rates(input=n), tier=above)
        for n, above in ((1, 0), (2, 200_000), (3, 400_000))
    ]
    price = price_of(tiers)
    assert isinstance(price, TieredPrice)
    usage = Usage(tokens)
    cost, charge, id = price.priced(usage)
    assert cost == tokens * rate
    assert charge == round(Fraction(tokens * rate, MILLION))
    assert id == tiers[rate - 1].id == price.at(usage).id
    assert price.sheets == tuple(tiers)
    assert price.cost(usage) == cost
    assert price.charge(usage) == charge


def test_what_a_failed_attempt_used_is_paid_without_the_price_of_a_call() -> None:
    sheet = PriceSheet(currency="USD", cost=rates(call=7), charge=rates(call=9))
    price = Price(sheet)
    usage = Usage(1_000, 1_000)
    assert price.priced(usage) == (2 + 7, 2 + 9, sheet.id)
    assert price.tokens_priced(usage) == (2, 2, sheet.id)
    tiered = price_of([sheet, msgspec.structs.replace(sheet, tier=10, cost=rates(call=70))])
    assert tiered.tokens_priced(usage)[:2] == (2, 2)


@given(
    side=st.builds(ClassRates, **dict.fromkeys(NAMES, st.integers(min_value=0, max_value=10**12))),
    usage=usages,
    input=tokens,
    output=tokens,
    media=st.booleans(),
)
def test_no_call_is_charged_more_than_the_most_that_so_many_tokens_may_cost(
    side: ClassRates, usage: Usage, input: int, output: int, *, media: bool
) -> None:
    usage, images = capped(usage), 0
    if usage.details is not None:
        images = usage.details.images
        if not media:
            parts = {"audio_input_tokens": 0, "image_input_tokens": 0}
            details = msgspec.structs.replace(usage.details, **parts)
            usage = msgspec.structs.replace(usage, details=details)
    price = Price(PriceSheet(currency="USD", cost=side, charge=side))
    expected = Usage(usage.input_tokens + input, usage.output_tokens + output).with_images(images)
    assert price.charge(usage) <= price.most(expected, media=media)


def test_the_most_depends_on_the_tier_and_on_sounds_and_images() -> None:
    sheets = [
        PriceSheet(currency="USD", cost=side, charge=side, tier=tier)
        for tier, side in ((0, rates()), (10, rates(audio_input=5_000, reasoning=3_000, call=7)))
    ]
    price = price_of(sheets)
    assert price.media
    assert price.most(Usage(10, 1000), media=True) == 1
    usage = Usage(1000, 1000)
    assert price.charge(usage) == 2 + 7
    assert [price.most(usage, media=media) for media in (False, True)] == [4 + 7, 8 + 7]
