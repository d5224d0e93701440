"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NANO = Decimal(10) ** -9


def say(text: str) -> None:
    """One line (or several) on standard output."""
    sys.stdout.write(text + "\n")


def say_now(text: str) -> None:
    """One line that is not kept back, for whoever waits for it in a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def remark(text: str) -> None:
    """One line for the person, not for a pipe: on standard error."""
    sys.stderr.write(text + "\n")


def say_json(value: Any) -> None:
    """`value` as indented JSON."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def say_table(titles: Sequence[str], rows: Iterable[Sequence[Any]], *, right: str = "") -> None:
    """A table on standard output; see `table`."""
    for line in table(titles, rows, right=right):
        say(line)


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]], *, right: str = "") -> list[str]:
    """The lines of a table. The columns whose titles `right` contains (separated by spaces) hold
    numbers."""
    cells = [[shown(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    numbers = set(right.split())
    lines = []
    for line in (titles, *cells):
        aligned = (
            text.rjust(width) if title in numbers else text.ljust(width)
            for text, width, title in zip(line, widths, titles, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    return lines


def shown(value: Any) -> str:
    """A value in a table's cell; `-` is nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "(none)"
    return str(value)


def money(nano: int) -> str:
    """Nano-units exactly, with at least two decimals."""
    text = f"{nano * _NANO:,.9f}"
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def moment(seconds: float | None) -> str:
    """Seconds since the epoch as UTC to the minute."""
    if seconds is None:
        return "-"
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%MZ")
