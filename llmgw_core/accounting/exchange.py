"""Exchange rates by the day, from a file: what a unit of another currency is worth in the one of
the installation. The rate of a day holds until there is a later one.

A file is CSV with the columns `date,currency,rate`, or YAML: a list of mappings with these keys.
"""

from __future__ import annotations

import csv
import datetime as dt
from bisect import bisect_right
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.document import read_document
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PATH: Final = "accounting.exchange_rates"
LARGEST: Final = 10**9
NEVER: Final = 2**63
_COLUMNS: Final = ("date", "currency", "rate")
_DAY_NS: Final = 86_400 * 10**9
_EPOCH: Final = dt.date(1970, 1, 1)


class ExchangeRates:
    """`rates`: by currency, the rate of each day. Two are equal when they say the same."""

    def __init__(self, rates: Mapping[str, Mapping[dt.date, Decimal]]) -> None:
        self._rates = {currency: dict(sorted(days.items())) for currency, days in rates.items()}
        self._starts = {
            currency: [(day - _EPOCH).days * _DAY_NS for day in days]
            for currency, days in self._rates.items()
        }
        self._values = {currency: list(days.values()) for currency, days in self._rates.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExchangeRates) and self._rates == other._rates

    __hash__ = None  # type: ignore[assignment]

    def during(self, currency: str, at_ns: int) -> tuple[int, int, Decimal | None]:
        """From when until when (nanoseconds since the epoch) the rate at `at_ns` holds, and the
        rate; None where none is known yet."""
        starts = self._starts.get(currency, [])
        index = bisect_right(starts, at_ns)
        since = starts[index - 1] if index else -NEVER
        until = starts[index] if index < len(starts) else NEVER
        return since, until, self._values[currency][index - 1] if index else None

    def last_day(self, currency: str) -> dt.date | None:
        """The day of the latest rate."""
        return next(reversed(self._rates.get(currency, {})), None)


NO_RATES: Final = ExchangeRates({})


def read_rates(file: str, currency: str) -> ExchangeRates:
    """The rates in `file`, in units of `currency`. Raises `ConfigErrors` with one sentence per
    line that is wrong."""
    if not file:
        return NO_RATES
    rates: dict[str, dict[dt.date, Decimal]] = {}
    errors = []
    for line, row in _rows(Path(file)):
        try:
            day, name, rate = _row(row)
            if name == currency:
                _refuse("is the installation's own currency, which has no rate")
            if day in rates.get(name, {}):
                _refuse(f"{name} has a rate on {day} already")
            rates.setdefault(name, {})[day] = rate
        except ValueError as error:
            errors.append(ConfigError(f"{file}, {line}: {error}.", path=PATH))
    if errors:
        raise ConfigErrors(errors)
    return ExchangeRates(rates)


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Where a row stands, and the row as a mapping."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise _unreadable(f"{file} is not UTF-8 text.") from None
    if file.suffix.lower() in {".yaml", ".yml"}:
        try:
            found = read_document(text)
        except ConfigErrors as error:
            raise _unreadable(f"{file}: {error}") from None
        if found is not None and not isinstance(found, list):
            raise _unreadable(f"{file} must be a list of mappings with {', '.join(_COLUMNS)}.")
        return ((f"entry {index}", row) for index, row in enumerate(found or (), 1))
    lines = text.splitlines()
    if not lines or [cell.strip().lower() for cell in lines[0].split(",")] != [*_COLUMNS]:
        raise _unreadable(f"{file}, line 1: must be the columns {','.join(_COLUMNS)}.")
    return _csv_rows(lines)


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(lines)
    next(reader)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            row = dict(zip(_COLUMNS, cells, strict=False)) if len(cells) == len(_COLUMNS) else None
            yield f"line {reader.line_num}", row


def _row(row: Any) -> tuple[dt.date, str, Decimal]:
    if not isinstance(row, dict) or set(row) != set(_COLUMNS):
        _refuse(f"must have {', '.join(_COLUMNS)}")
    day, currency, rate = (str(row[name]).strip() for name in _COLUMNS)
    try:
        date = dt.date.fromisoformat(day)
    except ValueError:
        message = f"`{day}` is no date such as 2026-03-01"
        raise ValueError(message) from None
    if not currency:
        _refuse("the currency is missing")
    try:
        value = Decimal(rate)
    except InvalidOperation:
        message = f"`{rate}` is no number"
        raise ValueError(message) from None
    if not value.is_finite() or not Decimal(1).scaleb(-12) <= value <= LARGEST:
        _refuse(f"`{rate}` is no rate; it is more than 0 and at most {LARGEST}")
    return date, currency, value


def _refuse(message: str) -> None:
    raise ValueError(message)


def _unreadable(message: str) -> ConfigErrors:
    return ConfigErrors([ConfigError(message, path=PATH)])
