"""A provider's invoice beside the books: as it comes, and what does not agree."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.schema_statements import StatementsConfig
from llmgw_core.domain.usage import Usage
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.invoices import Item, Reading, class_of, read_invoice
from llmgw_core.statements.reconciling import Tolerance, compare
from llmgw_core.statements.service import Statements
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.bookkeeping import book, priced, rates, sheet

if TYPE_CHECKING:
    from llmgw_core.statements.reconciling import Comparison
    from llmgw_core.store.engine import Store

FIRST, LAST = dt.date(2027, 3, 1), dt.date(2027, 3, 31)
KNOWN = ("gpt-x", "gpt-x-mini")
MARCH = int(dt.datetime(2027, 3, 1, tzinfo=dt.UTC).timestamp()) * 10**9
PRICE = sheet(rates(10**9, 2 * 10**9, cached_input=10**8), rates(9 * 10**9, 9 * 10**9))


def items(text: str, how: Reading | None = None) -> list[Item]:
    return read_invoice(text.encode(), how or Reading(), KNOWN, FIRST, LAST, "EUR").items


def test_columns_are_found_by_their_usual_titles() -> None:
    text = "Date,Model,Token Type,Quantity,Cost\n2027-03-05,gpt-x,input,1000,1.50\n"
    assert items(text) == [Item("gpt-x", "input", Decimal(1000), Decimal("1.50"))]


def test_columns_models_and_classes_can_be_named() -> None:
    text = "Tag;Modell;Art;Menge;Betrag\n05.03.2027;GPTX;Eingabe;1,5;1.234,50\n"
    how = Reading(
        columns={
            "date": "Tag",
            "model": "Modell",
            "class": "Art",
            "quantity": "Menge",
            "amount": "Betrag",
        },
        models={"GPTX": "gpt-x"},
        classes={"Eingabe": "input"},
        unit=Decimal(10**6),
        comma=True,
    )
    assert items(text, how) == [Item("gpt-x", "input", Decimal(1_500_000), Decimal("1234.50"))]


@pytest.mark.parametrize(
    ("description", "token_class"),
    [
        ("input", "input"),
        ("Prompt tokens", "input"),
        ("Outp Tokens", "output"),
        ("Cached input", "cached_input"),
        ("cache_creation_input_tokens", "cache_write"),
        ("cache_read_input_tokens", "cached_input"),
        ("Completion tokens, reasoning", "reasoning"),
        ("audio-output", "audio_output"),
        ("Audio tokens", "audio_input"),
        ("Image input", "image_input"),
        ("image output tokens", "image_output"),
        ("requests", "call"),
        ("reserved capacity", "reserved capacity"),
        ("", "all"),
    ],
)
def test_classes_are_recognised_by_the_usual_words(description: str, token_class: str) -> None:
    assert class_of(description, {}) == token_class


@pytest.mark.parametrize("delimiter", [";;", "\\t", '"', "\n"])
def test_columns_stand_apart_by_one_character(delimiter: str) -> None:
    with pytest.raises(StatementError, match="one character"):
        items("model;amount\ngpt-x;1\n", Reading(delimiter=delimiter))


@pytest.mark.parametrize("amount", ["12.50", "1,234.56", "1.23.456,00"])
def test_decimals_behind_a_point_are_no_thousands_where_a_comma_was_promised(amount: str) -> None:
    with pytest.raises(StatementError, match="where no thousands end: leave out --comma"):
        items(f"model;amount\ngpt-x;{amount}\n", Reading(comma=True))


@pytest.mark.parametrize(
    ("text", "comma", "value"),
    [
        ("1,234,567.5", False, "1234567.5"),
        ("-1,234", False, "-1234"),
        ("€ 999", False, "999"),
        ("-1.234.567,5", True, "-1234567.5"),
        ("0,5", True, "0.5"),
    ],
)
def test_thousands_may_be_set_apart(text: str, comma: bool, value: str) -> None:
    [item] = items(f"model;amount\ngpt-x;{text}\n", Reading(comma=comma))
    assert item.amount == Decimal(value)


@pytest.mark.parametrize("model", ["gpt-x", "GPT-X", "gpt-x-2027-01-05", "gpt-x@20270105"])
def test_a_model_is_recognised_with_its_date(model: str) -> None:
    assert items(f"model,amount\n{model},1\n")[0].model == "gpt-x"


def test_lines_about_another_time_are_counted_and_left_out() -> None:
    text = "date,model,amount\n" + "".join(
        f"{day},gpt-x,1\n"
        for day in ("2027-02-28", "2027-03-01T00:00:00Z", "2027-03", "2027-02", "2027-03-31", "")
    )
    invoice = read_invoice(text.encode(), Reading(), KNOWN, FIRST, LAST, "EUR")
    assert (len(invoice.items), invoice.outside) == (4, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column for model and amount; it has none"),
        ("a,b\n1,2\n", "no column for model and amount; it has a, b. Name it: --column model="),
        ("model,amount\ngpt-x,much\n", "The amount in line 2 of the invoice is no number: 'much'"),
        ("model,amount\ngpt-x,NaN\n", "no number: 'NaN'"),
        ("model,amount\ngpt-x,1e999999\n", "no number: '1e999999'"),
        ("model;amount\ngpt-x;12,50\n", "'12,50', has ',' where no thousands end: say --comma"),
        ("model;amount\ngpt-x;1.234,56\n", "'1.234,56', has ',' where no thousands end"),
        ("model,amount," + "x" * 200_000 + "\ngpt-x,1,1\n", "Line 1 of the invoice is no CSV"),
        ("date,model,amount\nsoon,gpt-x,1\n", "no date that can be read in line 2: 'soon'"),
        ("model,amount,currency\ngpt-x,1,USD\n", "Line 2 of the invoice is in USD, and the books"),
        ('model,amount\n"' + "x" * 200_000 + '",1\n', "of the invoice is no CSV"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, says: str) -> None:
    with pytest.raises(StatementError, match="invoice") as refused:
        items(text)
    assert says in str(refused.value)


def test_a_column_that_is_named_has_to_be_there() -> None:
    with pytest.raises(StatementError, match="no column 'x'; it has model, amount"):
        items("model,amount\n", Reading(columns={"date": "x"}))


@given(st.binary(max_size=300))
def test_no_bytes_are_a_bug(data: bytes) -> None:
    with suppress(StatementError):
        read_invoice(b"model,amount\n" + data, Reading(), KNOWN, FIRST, LAST, "EUR")


def verdicts(found: list[Comparison]) -> dict[tuple[str, str], str]:
    return {(each.model, each.token_class): each.verdict for each in found}


def test_both_sides_are_compared_by_model_and_class() -> None:
    booked = {
        ("gpt-x", "input"): (1000, Decimal(10)),
        ("gpt-x", "output"): (1000, Decimal(10)),
        ("gpt-x", "cached_input"): (1000, Decimal(10)),
        ("gpt-x", "call"): (5, Decimal(0)),
        ("own", "input"): (7, Decimal(3)),
    }
    invoiced = [
        Item("gpt-x", "input", Decimal(600), Decimal(6)),
        Item("gpt-x", "input", Decimal(400), Decimal("4.01")),
        Item("gpt-x", "output", None, Decimal("10.06")),
        Item("gpt-x", "cached_input", Decimal(900), Decimal(10)),
        Item("gpt-x", "reserved", None, Decimal(99)),
    ]
    found = compare(booked, invoiced, Tolerance())
    assert verdicts(found) == {
        ("gpt-x", "input"): "matched",
        ("gpt-x", "output"): "differs",
        ("gpt-x", "cached_input"): "differs",
        ("gpt-x", "reserved"): "only invoiced",
        ("own", "input"): "only booked",
    }
    output = next(each for each in found if each.token_class == "output")
    assert (output.difference, output.percent) == (Decimal("0.06"), Decimal("0.6"))


def test_an_invoice_that_does_not_tell_classes_apart_is_compared_in_sum() -> None:
    booked = {
        ("gpt-x", "input"): (1000, Decimal(10)),
        ("gpt-x", "output"): (1000, Decimal(20)),
        ("gpt-x-mini", "input"): (1, Decimal(1)),
    }
    invoiced = [
        Item("gpt-x", "all", None, Decimal(30)),
        Item("gpt-x-mini", "input", None, Decimal(1)),
    ]
    found = compare(booked, invoiced, Tolerance())
    assert verdicts(found) == {("gpt-x", "all"): "matched", ("gpt-x-mini", "input"): "matched"}


async def test_the_cost_side_of_the_month_is_what_the_provider_should_bill(store: Store) -> None:
    clock = MARCH / 1e9 + 40 * 86_400
    statements = Statements(store, StatementsConfig(), currency="EUR", clock=lambda: clock)
    records = [
        priced(
            number,
            PRICE,
            Usage(10_000_000, 1_000_000, 4_000_000),
            started_ns=MARCH,
            deployment=deployment,
            cost_center=str(number),
        )
        for number, deployment in enumerate(("smart/azure", "clever/azure", "smart/onprem"))
    ]
    await book(store, Ledger(store), records, PRICE)
    made = await statements.create("2027-03", actor="test")
    invoice = (
        b"model,class,quantity,amount\n"
        b"gpt-x,input,12,12.00\ngpt-x,cached input,8,0.80\ngpt-x,output,2,4.40\n"
    )
    found, outside = await statements.reconcile(
        made,
        invoice,
        Reading(unit=Decimal(10**6)),
        names={"smart/azure": "gpt-x", "clever/azure": "gpt-x", "smart/onprem": "llama"},
        patterns=["*/azure"],
    )
    assert outside == 0
    assert verdicts(found) == {
        ("gpt-x", "input"): "matched",
        ("gpt-x", "cached_input"): "matched",
        ("gpt-x", "output"): "differs",
    }
    assert next(each for each in found if each.token_class == "output").percent == 10
