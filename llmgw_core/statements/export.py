"""A statement as a file: CSV for spreadsheets and accounting, JSON for programs. Pure.

CSV as in RFC 4180, UTF-8, decimal points, ISO dates, one line per line. A text that a spreadsheet
would take for a formula begins with an apostrophe. Nothing is in a file that is not stored, so a
closed statement gives the same bytes for ever.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import Check, Statement

COLUMNS: Final = (
    "statement",
    "state",
    "line",
    "kind",
    "period",
    "cost_center",
    "cost_center_name",
    "cost_center_owner",
    "model",
    "class",
    "unit",
    "quantity",
    "cost_rate",
    "cost",
    "charge_rate",
    "charge",
    "currency",
    "price",
    "note",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_NANO: Final = 10**9


def as_csv(statement: Statement, lines: Sequence[Line]) -> bytes:
    """The lines, under a line of titles. Rates are in the currency per million tokens, or for one
    call or image."""
    return csv_bytes(
        COLUMNS, (_cells(statement, number, line) for number, line in _numbered(lines))
    )


def as_json(statement: Statement, lines: Sequence[Line]) -> bytes:
    """The statement with its lines; amounts and rates are texts, so that nobody rounds them."""
    document = {
        **facts(statement),
        "lines": [line_facts(statement, *each) for each in _numbered(lines)],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def facts(statement: Statement) -> dict[str, Any]:
    """A statement without its lines."""
    summary, span = statement.summary, statement.span
    return {
        "id": statement.id,
        "state": statement.state,
        "period": statement.period,
        "timezone": statement.timezone,
        "begin": span.begin,
        "end": span.end,
        "hours": span.hours,
        "organization": statement.scope or None,
        "currency": summary.currency,
        "decimals": summary.decimals,
        "calls": summary.calls,
        "cost": amount(summary.cost, summary.decimals),
        "charge": amount(summary.charge, summary.decimals),
        "checks": [check_facts(check) for check in summary.checks],
        "pools": [
            {
                "name": pool.name,
                "hours": pool.hours,
                "cost": amount(pool.cost, summary.decimals),
                "idle": amount(pool.idle, summary.decimals),
                "used_weighted_tokens": pool.used,
                "capacity_weighted_tokens": pool.capacity,
            }
            for pool in summary.pools
        ],
        "created": _moment(statement.created_ns),
        "created_by": statement.created_by,
        "closed": _moment(statement.closed_ns),
        "closed_by": statement.closed_by,
        "digest": statement.digest or None,
    }


def check_facts(check: Check) -> dict[str, Any]:
    """That lines and ledger agree, with the figures."""
    return {
        "period": check.period,
        "ledger_cost": amount(check.ledger_cost, 9),
        "statement_cost": amount(check.lines_cost, 9),
        "difference_cost": amount(check.lines_cost - check.ledger_cost, 9),
        "ledger_charge": amount(check.ledger_charge, 9),
        "statement_charge": amount(check.lines_charge, 9),
        "difference_charge": amount(check.lines_charge - check.ledger_charge, 9),
        "bound": bound(check),
        "rows": check.rows,
        "lines": check.lines,
        "holds": check.holds,
    }


def bound(check: Check) -> str:
    """How much rounding may come to, in the currency."""
    return amount(check.bound_halves * 5, 10, 10 * _NANO)


def line_facts(statement: Statement, number: int, line: Line) -> dict[str, Any]:
    """A line by the names of columns."""
    named = zip(COLUMNS[2:], _values(statement, number, line), strict=True)
    return {name: value if value != "" else None for name, value in named}


def amount(nano: int, decimals: int, one: int = _NANO) -> str:
    """Nano-units as a decimal number with so many places, which it must fit into."""
    places = 10**decimals
    scaled, rest = divmod(abs(nano) * places, one)
    if rest:
        raise ValueError("an amount has more decimals than are shown")
    whole, part = divmod(scaled, places)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{part:0{decimals}d}" if decimals else f"{sign}{whole}"


def safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula. A number is none, whatever its sign."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def csv_bytes(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A file as in RFC 4180, in UTF-8. Texts are made safe; numbers are numbers."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(titles)
    for row in rows:
        writer.writerow([safe(cell) if isinstance(cell, str) else cell for cell in row])
    return out.getvalue().encode()


def _cells(statement: Statement, number: int, line: Line) -> list[object]:
    span = f"{statement.period} {statement.timezone}"
    return [span, statement.state, *_values(statement, number, line)]


def _values(statement: Statement, number: int, line: Line) -> list[object]:
    decimals = line.decimals
    return [
        number,
        line.kind,
        line.period,
        line.code,
        line.name,
        line.owner,
        line.model,
        line.token_class,
        line.unit,
        line.quantity,
        _rate(line.cost_rate),
        amount(line.cost, decimals),
        _rate(line.charge_rate),
        amount(line.charge, decimals),
        statement.summary.currency,
        line.price,
        line.note,
    ]


def _rate(rate: int | None) -> str:
    if rate is None:
        return ""
    whole, _, part = amount(rate, 9).partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def _numbered(lines: Iterable[Line]) -> Iterable[tuple[int, Line]]:
    return enumerate(lines, 1)


def _moment(instant_ns: int | None) -> str | None:
    if instant_ns is None:
        return None
    moment = dt.datetime.fromtimestamp(instant_ns // _NANO, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
