"""The lines of a statement, made of sums and price sheets. Pure.

One line is one class of tokens of one model at one price on one cost centre, so that whoever reads
it can multiply. Amounts are exact up to here, and are rounded once, in the line, half to even. What
of a price sheet is priced like the class that it is a part of is shown together with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from llmgw_core.accounting.price_sheet import CLASSES, MILLION, UNITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.store.statement_sums import PeriodSums

Kind = Literal["usage", "adjustment", "pool", "idle"]
CALLS: Final = "call"
OTHER: Final = "other"
"""The class of amounts that no rates explain: rows from before there were price sheets, and
figures of providers that contradict themselves."""
TOKENS: Final = "token"
_UNITS: Final = {"call": "call", "image": "image", OTHER: "call"}
_ORDER: Final = {each.name: index for index, each in enumerate(CLASSES)} | {OTHER: len(CLASSES)}
_PARENTS: Final = {each.name: each.parent for each in CLASSES if each.parent}


class LineKey(msgspec.Struct, frozen=True, order=True):
    """What a line is about. `price` is the id of the price sheet, "" if there is none."""

    cost_center: str
    model: str
    price: str
    token_class: str


class Exact(msgspec.Struct):
    """What a line comes to before it is rounded. Rates are nano-units per million tokens (per unit
    for calls and images), None where there are none. `cost` and `charge` are millionths of a
    nano-unit."""

    quantity: int = 0
    cost_rate: int | None = None
    charge_rate: int | None = None
    cost: int = 0
    charge: int = 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line as it is stored. Amounts are nano-units, rounded to what the statement shows. `about`
    is the statement whose time it bills, `period` that statement's period. The names are those of
    the moment at which the statement was made."""

    kind: Kind
    about: str
    period: str
    cost_center: str
    code: str
    name: str
    owner: str
    model: str
    token_class: str
    unit: str
    quantity: int
    price: str
    cost_rate: int | None
    charge_rate: int | None
    cost: int
    charge: int
    decimals: int
    note: str = ""

    @property
    def key(self) -> LineKey:
        """What it is about."""
        return LineKey(self.cost_center, self.model, self.price, self.token_class)


class Billed(msgspec.Struct):
    """Sums over a time, and how many rounded amounts they are made of at most."""

    rows: int = 0
    cost: int = 0
    charge: int = 0


def unit_of(token_class: str) -> str:
    """What the quantity of a class counts."""
    return _UNITS.get(token_class, TOKENS)


def exact_lines(
    groups: Iterable[PeriodSums], sheets: Mapping[str, PriceSheet]
) -> dict[LineKey, Exact]:
    """What `groups` come to, line by line, exactly. What the rates do not explain of an amount, and
    is more than the rounding of its rows, has a line of its own."""
    merged: dict[tuple[str, str, str], dict[str, int]] = {}
    for group in groups:
        sums = merged.setdefault((group.cost_center, group.model, group.price), {})
        for column, value in group.sums.items():
            sums[column] = sums.get(column, 0) + value
        sums["rows"] = sums.get("rows", 0) + group.rows
    lines: dict[LineKey, Exact] = {}
    for (center, model, price), sums in sorted(merged.items()):
        sheet = sheets.get(price)
        found = _unpriced(sums) if sheet is None else _priced(sheet, sums)
        for token_class, exact in found.items():
            lines[LineKey(center, model, price, token_class)] = exact
    return lines


def unexplained(sheet: PriceSheet, sums: Mapping[str, int]) -> Exact:
    """What the rates do not explain of the amounts in `sums`, the rounding of its rows included."""
    amounts = sheet.amounts_by_class(sums)
    return Exact(
        cost=sums["cost"] * MILLION - sum(amount.cost for amount in amounts),
        charge=sums["charge"] * MILLION - sum(amount.charge for amount in amounts),
    )


def ordered(keys: Iterable[LineKey]) -> list[LineKey]:
    """Keys as a statement lists them: classes in the order of price sheets."""
    return sorted(
        keys, key=lambda key: (key.cost_center, key.model, key.price, _ORDER[key.token_class])
    )


def rounded_to(numerator: int, decimals: int) -> int:
    """Nano-units of millionths of them, rounded to so many decimals of the currency, half to
    even."""
    step = MILLION * last_place(decimals)
    units, rest = divmod(numerator, step)
    if rest * 2 > step or (rest * 2 == step and units & 1):
        units += 1
    return units * last_place(decimals)


def last_place(decimals: int) -> int:
    """Nano-units of one in the last of so many decimals."""
    return int(10 ** (9 - decimals))


def _priced(sheet: PriceSheet, sums: Mapping[str, int]) -> dict[str, Exact]:
    found: dict[str, Exact] = {}
    for amount in sheet.amounts_by_class(sums):
        token_class = shown_as(sheet, amount.name)
        line = found.setdefault(token_class, Exact())
        line.quantity += amount.quantity
        line.cost_rate, line.charge_rate = amount.cost_rate, amount.charge_rate
        line.cost += amount.cost
        line.charge += amount.charge
    allowed = sums["rows"] * MILLION // 2
    rest = unexplained(sheet, sums)
    if abs(rest.cost) > allowed or abs(rest.charge) > allowed:
        found[OTHER] = rest
    return {name: line for name, line in found.items() if line.quantity or line.cost or line.charge}


def _unpriced(sums: Mapping[str, int]) -> dict[str, Exact]:
    """Without a sheet the quantities are shown in the plain classes, and the amounts, if there are
    any, in a line without a rate."""
    found = {}
    for token_class, column in (
        ("input", "input_tokens"),
        ("output", "output_tokens"),
        ("image", "images"),
        (CALLS, "calls"),
    ):
        if sums.get(column):
            found[token_class] = Exact(sums[column])
    if sums["cost"] or sums["charge"]:
        found[OTHER] = Exact(0, None, None, sums["cost"] * MILLION, sums["charge"] * MILLION)
    return found


def shown_as(sheet: PriceSheet, token_class: str) -> str:
    """The class whose line shows this one: its own, or that of which it is a part, if both have the
    same rates."""
    parent = _PARENTS.get(token_class, "")
    same = parent and all(
        getattr(side, token_class) == getattr(side, parent) for side in (sheet.cost, sheet.charge)
    )
    return parent if same else token_class


def factor(token_class: str) -> int:
    """What a quantity times a rate is multiplied with to be millionths of a nano-unit."""
    return MILLION if token_class in UNITS else 1
