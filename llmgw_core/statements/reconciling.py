"""A provider's invoice against the cost side of the books, by model and class. Pure."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from llmgw_core.accounting.price_sheet import MILLION
from llmgw_core.statements.invoices import EVERYTHING
from llmgw_core.statements.lines import OTHER, exact_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.statements.invoices import Item
    from llmgw_core.statements.periods import Period
    from llmgw_core.store.statement_sums import PeriodSums

Verdict = Literal["matched", "differs", "only invoiced", "only booked"]
_NUMERATORS: Final = Decimal(MILLION * 10**9)
_NOTHING: Final = Decimal(0)


class Tolerance(NamedTuple):
    """Two figures are the same if they differ by no more than `percent` of the invoice's, or two
    amounts by no more than `amount`."""

    percent: Decimal = Decimal("0.5")
    amount: Decimal = Decimal("0.01")

    def covers(self, ours: Decimal, theirs: Decimal, least: Decimal) -> bool:
        """Whether both are the same."""
        return abs(ours - theirs) <= max(least, abs(theirs) * self.percent / 100)


class Comparison(NamedTuple):
    """One model and class on both sides. Quantities are None where the invoice says none, or the
    books know none."""

    model: str
    token_class: str
    verdict: Verdict
    booked_quantity: Decimal | None
    invoiced_quantity: Decimal | None
    booked: Decimal
    invoiced: Decimal

    @property
    def difference(self) -> Decimal:
        """How much more was invoiced than booked."""
        return self.invoiced - self.booked

    @property
    def percent(self) -> Decimal | None:
        """The same in percent of what was booked."""
        return None if not self.booked else 100 * self.difference / abs(self.booked)


def days(period: Period) -> tuple[dt.date, dt.date]:
    """The first and the last day of a period."""
    zone = ZoneInfo(period.timezone)
    first = dt.datetime.fromtimestamp(period.start_ns // 10**9, zone).date()
    last = dt.datetime.fromtimestamp(period.end_ns // 10**9 - 1, zone).date()
    return first, last


def booked_items(
    groups: Iterable[PeriodSums],
    sheets: Mapping[str, PriceSheet],
    names: Mapping[str, str],
    patterns: Sequence[str] = (),
) -> dict[tuple[str, str], tuple[int, Decimal]]:
    """Quantity and cost by model and class. `names`: how the provider calls what a deployment
    serves; only deployments that one of the `patterns` (`*/azure`) covers, if there are any."""
    found: dict[tuple[str, str], tuple[int, Decimal]] = {}
    for group in groups:
        if patterns and not any(fnmatchcase(group.deployment, each) for each in patterns):
            continue
        model = names.get(group.deployment, group.model)
        for key, line in exact_lines([group], sheets).items():
            quantity, cost = found.get((model, key.token_class), (0, _NOTHING))
            found[model, key.token_class] = (
                quantity + line.quantity,
                cost + Decimal(line.cost) / _NUMERATORS,
            )
    return found


def compare(
    booked: Mapping[tuple[str, str], tuple[int, Decimal]],
    items: Iterable[Item],
    tolerance: Tolerance,
) -> list[Comparison]:
    """Every model and class that one of both sides has, by model. Where an invoice does not tell
    the classes of a model apart, the sums are compared."""
    invoiced: dict[tuple[str, str], tuple[Decimal | None, Decimal]] = {}
    for item in items:
        quantity, amount = invoiced.get((item.model, item.token_class), (item.quantity, _NOTHING))
        if (item.model, item.token_class) in invoiced and item.quantity is not None:
            quantity = item.quantity if quantity is None else quantity + item.quantity
        invoiced[item.model, item.token_class] = (quantity, amount + item.amount)
    ours = _together(booked, {model for model, name in invoiced if name == EVERYTHING})
    found = []
    for model, token_class in sorted({*ours, *invoiced}):
        mine, theirs = ours.get((model, token_class)), invoiced.get((model, token_class))
        if theirs is None and (mine is None or not mine[1]):
            continue  # what costs nothing is on no invoice
        found.append(_compared(model, token_class, mine, theirs, tolerance))
    return found


def _together(
    booked: Mapping[tuple[str, str], tuple[int, Decimal]], models: set[str]
) -> dict[tuple[str, str], tuple[int | None, Decimal]]:
    found: dict[tuple[str, str], tuple[int | None, Decimal]] = {}
    for (model, token_class), (quantity, cost) in booked.items():
        if model not in models:
            found[model, token_class] = (None if token_class == OTHER else quantity, cost)
            continue
        before = found.get((model, EVERYTHING), (None, _NOTHING))
        found[model, EVERYTHING] = (None, before[1] + cost)
    return found


def _compared(
    model: str,
    token_class: str,
    mine: tuple[int | None, Decimal] | None,
    theirs: tuple[Decimal | None, Decimal] | None,
    tolerance: Tolerance,
) -> Comparison:
    quantity, cost = mine or (None, _NOTHING)
    counted, amount = theirs or (None, _NOTHING)
    known = None if quantity is None else Decimal(quantity)
    same = tolerance.covers(cost, amount, tolerance.amount) and (
        known is None or counted is None or tolerance.covers(known, counted, _NOTHING)
    )
    verdict: Verdict = "matched" if same else "differs"
    if mine is None:
        verdict = "only invoiced"
    elif theirs is None:
        verdict = "only booked"
    return Comparison(model, token_class, verdict, known, counted, cost, amount)
