"""The invoice of a provider, read from the CSV that it offers. Pure.

Every provider writes another one, so columns are found by the usual titles, or named; models and
classes of tokens are recognised by the usual words, or named.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from llmgw_core.accounting.price_sheet import CLASSES
from llmgw_core.statements.errors import StatementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TITLES: Final = {
    "date": ("date", "day", "usage_date", "period", "month", "start_time", "start"),
    "model": ("model", "model_name", "model_version", "sku", "meter", "product", "item"),
    "class": ("class", "token_type", "type", "usage_type", "description", "line_item", "category"),
    "quantity": ("quantity", "tokens", "usage", "usage_quantity", "units", "amount_used"),
    "amount": ("amount", "cost", "total", "total_cost", "net_amount", "charge", "price"),
    "currency": ("currency", "currency_code"),
}
_NEEDED: Final = ("model", "amount")
_WORDS: Final = (
    (re.compile(r"cache.{0,3}(writ|creat|storag)"), "cache_write"),
    (re.compile(r"cache"), "cached_input"),
    (re.compile(r"reason|thinking"), "reasoning"),
    (re.compile(r"audio.*(out|compl)|(out|compl).*audio"), "audio_output"),
    (re.compile(r"audio"), "audio_input"),
    (re.compile(r"image.*(out|compl)|(out|compl).*image"), "image_output"),
    (re.compile(r"image.*(in|prompt)|(in|prompt).*image"), "image_input"),
    (re.compile(r"image"), "image"),
    (re.compile(r"\b(out|output|outp|completion|completions|generated)"), "output"),
    (re.compile(r"\b(in|inp|input|prompt|context)"), "input"),
    (re.compile(r"request|call"), "call"),
)
"""Words of descriptions, the more telling ones first."""
_NAMES: Final = frozenset(each.name for each in CLASSES)
_DATED: Final = re.compile(r"[-@](\d{4}-?\d{2}-?\d{2}|latest)$")
_DIGITS: Final = range(-24, 24)
"""Powers of ten between which a figure is no slip, and sums are exact."""
EVERYTHING: Final = "all"
"""The class of invoices that do not tell classes apart."""


class Reading(msgspec.Struct, frozen=True):
    """How a file is to be read. `columns`: titles by what they mean; `models`, `classes`: our names
    by the invoice's. `unit`: what one in the column of quantities stands for (a million, say).
    `rate`: what one of the invoice's currency is worth. `comma`: decimals are behind a comma."""

    columns: dict[str, str] = {}
    models: dict[str, str] = {}
    classes: dict[str, str] = {}
    unit: Decimal = Decimal(1)
    rate: Decimal = Decimal(1)
    comma: bool = False
    delimiter: str = ""


class Item(NamedTuple):
    """A line of an invoice. `quantity` is None where it does not say."""

    model: str
    token_class: str
    quantity: Decimal | None
    amount: Decimal


class Invoice(NamedTuple):
    """What an invoice says about a period; `outside`: how many of its lines are about another
    time."""

    items: list[Item]
    outside: int


def read_invoice(
    data: bytes, how: Reading, known: Iterable[str], first: dt.date, last: dt.date, currency: str
) -> Invoice:
    """The lines of a CSV file about the days `first` to `last`. `known` are the names of models
    that can be meant. Raises `StatementError` with the line and column that cannot be read."""
    text = _text(data)
    delimiter = how.delimiter or _delimiter(text)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise StatementError("Columns of an invoice stand apart by one character, like , or ;.")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = {name.lower(): name for name in known}
    found: list[Item] = []
    outside = 0
    try:
        columns = _columns(rows.fieldnames or (), how.columns)
        for row in rows:
            line = rows.line_num
            if not any((value or "").strip() for value in row.values() if isinstance(value, str)):
                continue
            cells = {name: (row.get(title) or "").strip() for name, title in columns.items()}
            if not _about(cells.get("date", ""), first, last, line):
                outside += 1
                continue
            _same_currency(cells.get("currency", ""), currency, how, line)
            found.append(_item(cells, how, names, line))
    except csv.Error as error:
        line = max(1, rows.line_num)
        raise StatementError(f"Line {line} of the invoice is no CSV: {error}.") from None
    return Invoice(found, outside)


def class_of(description: str, classes: Mapping[str, str]) -> str:
    """The class of tokens that a description means; itself if none is recognised."""
    if description in classes:
        return classes[description]
    plain = re.sub(r"[\s_\-/]+", " ", description.lower()).strip()
    if plain.replace(" ", "_") in _NAMES:
        return plain.replace(" ", "_")
    return next((name for word, name in _WORDS if word.search(plain)), description or EVERYTHING)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _delimiter(text: str) -> str:
    title = text.partition("\n")[0]
    return max(",;\t|", key=title.count)


def _columns(titles: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Title of each column that we know what to do with."""
    plain = {re.sub(r"[\s\-]+", "_", (title or "").strip().lower()): title for title in titles}
    found: dict[str, str] = {}
    for name, usual in _TITLES.items():
        if name in given:
            if given[name] not in titles:
                raise StatementError(
                    f"The invoice has no column '{given[name]}'; it has {', '.join(titles)}."
                )
            found[name] = given[name]
            continue
        title = next((plain[each] for each in usual if each in plain), None)
        if title is not None and title not in found.values():
            found[name] = title
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise StatementError(
            f"The invoice has no column for {' and '.join(missing)}; it has"
            f" {', '.join(titles) or 'none'}. Name it: --column {missing[0]}=TITLE."
        )
    return found


def _about(text: str, first: dt.date, last: dt.date, line: int) -> bool:
    """Whether a line is about a day of the period; one without a date is."""
    if not text:
        return True
    try:
        if re.fullmatch(r"\d{4}-\d{2}", text):
            return text == f"{first:%Y-%m}"
        if re.fullmatch(r"\d{1,2}\.\d{1,2}\.\d{4}", text):
            day = dt.datetime.strptime(text, "%d.%m.%Y").replace(tzinfo=dt.UTC).date()
        else:
            day = dt.datetime.fromisoformat(text).date()
    except ValueError:
        raise StatementError(
            f"The invoice has no date that can be read in line {line}: '{text[:40]}'; dates are"
            " written like 2026-10-31."
        ) from None
    return first <= day <= last


def _same_currency(text: str, currency: str, how: Reading, line: int) -> None:
    if text and text.upper() != currency and how.rate == 1:
        raise StatementError(
            f"Line {line} of the invoice is in {text[:10]}, and the books are in {currency}: say"
            " what one of it is worth with --rate."
        )


def _item(cells: Mapping[str, str], how: Reading, names: Mapping[str, str], line: int) -> Item:
    quantity = cells.get("quantity", "")
    return Item(
        _model(cells["model"], how.models, names),
        class_of(cells.get("class", ""), how.classes),
        _number(quantity, how, line, "quantity") * how.unit if quantity else None,
        _number(cells["amount"] or "0", how, line, "amount") * how.rate,
    )


def _model(text: str, models: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Our name of a model: the one that is given, the same one, or that without a date."""
    if text in models:
        return models[text]
    plain = text.lower()
    return names.get(plain) or names.get(_DATED.sub("", plain)) or text


def _number(text: str, how: Reading, line: int, what: str) -> Decimal:
    plain = re.sub(r"[\s'\u00a0\u202f€$£]", "", text)
    thousands, point = (".", ",") if how.comma else (",", ".")
    if thousands in plain and not _grouped(plain, thousands, point):
        # `12,50` could be taken for 1250 and `1.234,56` for 1.23456.
        remedy = "leave out --comma" if how.comma else "say --comma if decimals are behind a comma"
        raise StatementError(
            f"The {what} in line {line} of the invoice, '{text[:40]}', has '{thousands}' where no"
            f" thousands end: {remedy}."
        )
    try:
        value = Decimal(plain.replace(thousands, "").replace(point, "."))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or (value and value.adjusted() not in _DIGITS):
        raise StatementError(
            f"The {what} in line {line} of the invoice is no number: '{text[:40]}'."
        )
    return value


def _grouped(text: str, thousands: str, point: str) -> bool:
    """Whether `thousands` stands only where every third digit of a whole number ends."""
    whole = text.partition(point)[0].lstrip("+-")
    return thousands not in text.partition(point)[2] and bool(
        re.fullmatch(rf"[0-9]{{1,3}}({re.escape(thousands)}[0-9]{{3}})+", whole)
    )
