"""Whatever was called, corrected and booked late: the lines are what the ledger says, within the
rounding that the statement states, and half a last place for each line is all that is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmgw_core.domain.usage import Usage
from llmgw_core.statements.composing import Books, Composer, decode_line, encode_line
from llmgw_core.statements.lines import rounded_to
from llmgw_core.store.statement_sums import sums_of
from llmgw_core.testing.bookkeeping import priced, rates, repriced, sheet

if TYPE_CHECKING:
    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.statements.lines import Line

RATE = st.integers(0, 10**10)
SHEETS = st.builds(
    lambda a, b, c, d, e: sheet(
        rates(a, b, cached_input=c, reasoning=d, call=e), rates(b, a, cached_input=e)
    ),
    RATE,
    RATE,
    RATE,
    RATE,
    st.integers(0, 10**7),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[UsageRecord], list[PriceSheet]]:
    """A few calls on two cost centres, priced by two sheets, some of them priced anew."""
    first, second = draw(SHEETS), draw(SHEETS)
    found: list[UsageRecord] = []
    for number in range(draw(st.integers(1, 12))):
        tokens, output = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
        usage = Usage(
            tokens,
            output,
            draw(st.integers(0, tokens)),
            draw(st.integers(0, output)),
        )
        record = priced(
            number,
            draw(st.sampled_from((first, second))),
            usage,
            cost_center=draw(st.sampled_from(("a", "b", ""))),
        )
        found.append(record)
        if draw(st.booleans()):
            found += repriced(record, draw(st.sampled_from((first, second))))
    return found, [first, second]


@settings(deadline=None)
@given(calls(), st.integers(0, 9), st.data())
def test_lines_of_a_month_and_its_adjustments_are_what_the_ledger_says(
    called: tuple[list[UsageRecord], list[PriceSheet]], decimals: int, data: st.DataObject
) -> None:
    records, sheets = called
    composer = Composer(decimals, {each.id: each for each in sheets}, {})
    billed: list[Line] = []
    known = 0
    for until in sorted({*data.draw(st.sets(st.integers(0, len(records)))), len(records)}):
        books = Books("st_1", "2027-03", sums_of(records[:until]), billed)
        new = composer.lines(books, "adjustment" if known else "usage")
        check = composer.check(books, new)
        assert check.ledger_cost == sum(record.cost for record in records[:until])
        assert check.ledger_charge == sum(record.charge for record in records[:until])
        assert check.holds, check
        billed = [*billed, *new]
        known = until
    assert composer.lines(Books("st_1", "2027-03", sums_of(records), billed), "adjustment") == []
    quantities = sum(line.quantity for line in billed if line.unit == "token")
    assert quantities == sum(record.usage.total_tokens for record in records)
    for line in billed:
        assert decode_line(encode_line(line)) == line
        if line.cost_rate is not None:
            million = 10**6 if line.unit == "token" else 1
            exact = line.quantity * line.cost_rate
            assert 2 * abs(line.cost * million - exact) <= million * 10 ** (9 - decimals)


@given(st.integers(-(10**20), 10**20), st.integers(0, 9))
@example(5 * 10**5, 9)
@example(15 * 10**5, 9)
@example(-5 * 10**5, 9)
@example(25 * 10**8, 6)
def test_a_line_is_rounded_half_to_even(numerator: int, decimals: int) -> None:
    step = 10**6 * 10 ** (9 - decimals)
    rounded = rounded_to(numerator, decimals) * 10**6
    assert rounded % step == 0
    assert 2 * abs(rounded - numerator) <= step
    if 2 * abs(rounded - numerator) == step:
        assert rounded // step % 2 == 0
