"""A statement made of what the books say: lines, adjustments of closed periods, and the proof that
it adds up. Pure.

An adjustment is what the books say now about a closed period, less what statements have billed for
it until now, line by line. It is the same whether a call came late, was priced anew, or was booked
on another cost centre.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmgw_core.accounting.price_sheet import MILLION
from llmgw_core.statements.lines import (
    OTHER,
    Exact,
    Kind,
    Line,
    LineKey,
    exact_lines,
    factor,
    last_place,
    ordered,
    rounded_to,
    unit_of,
)
from llmgw_core.statements.records import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.store.statement_sums import PeriodSums


class Named(NamedTuple):
    """A cost centre as a statement names it."""

    code: str
    name: str
    owner: str


class Books(NamedTuple):
    """What the books say about the time of one statement (`about`, its `period`), and what closed
    statements have `billed` for it."""

    about: str
    period: str
    groups: Sequence[PeriodSums]
    billed: Sequence[Line] = ()


class Composer(NamedTuple):
    """What lines are made with: places of rounding, price sheets, and cost centres by id."""

    decimals: int
    sheets: Mapping[str, PriceSheet]
    centers: Mapping[str, Named]

    def lines(self, books: Books, kind: Kind) -> list[Line]:
        """What is to be billed for the time of `books`, beyond what was."""
        now = exact_lines(books.groups, self.sheets)
        before = _billed(books.billed)
        found = []
        for key in ordered({*now, *before}):
            line = self._line(key, now.get(key), before.get(key), books, kind)
            if line is not None:
                found.append(line)
        return found

    def check(self, books: Books, new: Iterable[Line]) -> Check:
        """That everything billed for the time of `books`, with the `new` lines, is what the books
        say."""
        lines = [*_usage(books.billed), *new]
        rows = sum(group.rows for group in books.groups)
        return Check(
            about=books.about,
            period=books.period,
            rows=rows,
            lines=len(lines),
            ledger_cost=sum(group.sums["cost"] for group in books.groups),
            ledger_charge=sum(group.sums["charge"] for group in books.groups),
            lines_cost=sum(line.cost for line in lines),
            lines_charge=sum(line.charge for line in lines),
            bound_halves=rows + sum(last_place(line.decimals) for line in lines),
        )

    def named(self, center: str) -> Named:
        """How the cost centre with this id is called; by its id if nobody has made it here."""
        return self.centers.get(center) or Named(center, "", "")

    def _line(
        self, key: LineKey, now: Exact | None, before: Exact | None, books: Books, kind: Kind
    ) -> Line | None:
        rates = now or before or Exact()
        was, is_now = before or Exact(), now or Exact()
        quantity = is_now.quantity - was.quantity
        if rates.cost_rate is None or rates.charge_rate is None:
            amounts = (is_now.cost - was.cost, is_now.charge - was.charge)
        else:
            units = quantity * factor(key.token_class)
            amounts = (rates.cost_rate * units, rates.charge_rate * units)
        cost, charge = (rounded_to(amount, self.decimals) for amount in amounts)
        if not (quantity or cost or charge):
            return None
        center = self.named(key.cost_center)
        return Line(
            kind=kind,
            about=books.about,
            period=books.period,
            cost_center=key.cost_center,
            code=center.code,
            name=center.name,
            owner=center.owner,
            model=key.model,
            token_class=key.token_class,
            unit=unit_of(key.token_class),
            quantity=quantity,
            price=key.price,
            cost_rate=rates.cost_rate,
            charge_rate=rates.charge_rate,
            cost=cost,
            charge=charge,
            decimals=self.decimals,
            note=_note(key, books, kind),
        )


def _note(key: LineKey, books: Books, kind: Kind) -> str:
    notes = []
    if kind == "adjustment":
        notes.append(f"adjusts {books.period}")
    if key.token_class == OTHER:
        notes.append("amounts of the ledger that no rate explains")
    elif not key.price:
        notes.append("no price")
    return "; ".join(notes)


def _usage(lines: Iterable[Line]) -> list[Line]:
    """Without what is paid by the month: that was shared out once, in full."""
    return [line for line in lines if line.kind in {"usage", "adjustment"}]


def _billed(lines: Iterable[Line]) -> dict[LineKey, Exact]:
    sums: dict[LineKey, Exact] = {}
    for line in _usage(lines):
        found = sums.setdefault(line.key, Exact(0, line.cost_rate, line.charge_rate))
        found.quantity += line.quantity
        found.cost += line.cost * MILLION
        found.charge += line.charge * MILLION
    return sums


def encode_line(line: Line) -> str:
    """A line as it is stored."""
    return msgspec.json.encode(line, order="sorted").decode()


decode_line = msgspec.json.Decoder(Line).decode
"""The line that was stored."""
