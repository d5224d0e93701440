from __future__ import annotations

from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.accounting.price_sheet import (
    CLASSES,
    MILLION,
    UNITS,
    ClassRates,
    PriceSheet,
    read_sheet,
    rounded,
)
from llmgw_core.store.ledger_tables import SUMS

NAMES = [each.name for each in CLASSES]
rates = st.builds(
    ClassRates, **{name: st.integers(min_value=-(10**12), max_value=10**15) for name in NAMES}
)
sheets = st.builds(
    PriceSheet,
    currency=st.sampled_from(["EUR", "USD"]),
    cost=rates,
    charge=rates,
    tier=st.integers(min_value=0, max_value=10**6),
    exchange=st.sampled_from(["", "EUR 1.0845"]),
)
counts = st.fixed_dictionaries(
    {each.column: st.integers(min_value=-(10**12), max_value=10**12) for each in CLASSES}
)


def test_every_class_has_a_rate_on_a_sheet_and_its_quantity_in_the_sums() -> None:
    assert sorted(NAMES) == sorted(ClassRates.__struct_fields__)
    assert {each.column for each in CLASSES} == set(SUMS) - {"cost", "charge", "estimated_calls"}


@given(sheets)
def test_a_stored_sheet_reads_back_as_it_was_with_its_id(sheet: PriceSheet) -> None:
    again = read_sheet(sheet.json())
    assert again == sheet
    assert again.id == sheet.id
    assert len(sheet.id) <= 40


@given(sheets, st.sampled_from(NAMES))
def test_another_rate_on_either_side_makes_another_sheet(sheet: PriceSheet, name: str) -> None:
    for side in ("cost", "charge"):
        old = getattr(sheet, side)
        new = msgspec.structs.replace(old, **{name: getattr(old, name) + 1})
        assert msgspec.structs.replace(sheet, **{side: new}).id != sheet.id


def test_the_id_of_a_sheet_is_the_same_for_ever() -> None:
    side = ClassRates(**dict.fromkeys(NAMES, 7))
    sheet = PriceSheet(currency="USD", cost=side, charge=side)
    assert sheet.id == "aa208a013feb84b6a0e0fa9e198d5e96"


@given(sheets, counts)
def test_classes_are_told_apart_and_add_up_to_the_whole(
    sheet: PriceSheet, sums: dict[str, int]
) -> None:
    lines = sheet.amounts_by_class(sums)
    quantities = {line.name: line.quantity for line in lines}
    inputs = ("input", "cached_input", "cache_write", "audio_input", "image_input")
    assert sum(quantities.get(name, 0) for name in inputs) == sums["input_tokens"]
    for line in lines:
        unit = Fraction(1) if line.name in UNITS else Fraction(1, MILLION)
        rate = getattr(sheet.charge, line.name)
        assert Fraction(line.charge, MILLION) == line.quantity * rate * unit


@given(sheets, st.lists(counts, max_size=6))
def test_amounts_of_sums_are_the_sums_of_the_amounts(
    sheet: PriceSheet, parts: list[dict[str, int]]
) -> None:
    total = {each.column: sum(part[each.column] for part in parts) for each in CLASSES}
    whole = {line.name: (line.cost, line.charge) for line in sheet.amounts_by_class(total)}
    added = dict.fromkeys(NAMES, (0, 0))
    for part in parts:
        for line in sheet.amounts_by_class(part):
            cost, charge = added[line.name]
            added[line.name] = (cost + line.cost, charge + line.charge)
    assert {name: whole.get(name, (0, 0)) for name in NAMES} == added


@given(st.integers(min_value=-(10**20), max_value=10**20))
def test_an_amount_is_rounded_half_to_even(numerator: int) -> None:
    assert rounded(numerator) == round(Fraction(numerator, MILLION))
