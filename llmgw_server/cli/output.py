"""What commands print: tables for people, JSON for programs.

Names, reasons and the like come from clients, engines and other operators, so nothing of them
reaches a terminal that the terminal would obey; what an output cannot show is written as in JSON.
"""

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
    sys.stdout.write(legible(text, sys.stdout.encoding) + "\n")


def say_now(text: str) -> None:
    """One line that is not kept back, for whoever waits for it in a pipe."""
    say(text)
    sys.stdout.flush()


def remark(text: str) -> None:
    """One line for the person, not for a pipe: on standard error."""
    sys.stderr.write(legible(text, sys.stderr.encoding) + "\n")


def legible(text: str, encoding: str | None = None, *, keep: str = "\n\t") -> str:
    """`text` with escapes like those of JSON for what is not printable, or not in `encoding`."""
    codec = encoding or "utf-8"
    if text.isprintable() and (text.isascii() or _fits(text, codec)):
        return text
    return "".join(
        each if each in keep or (each.isprintable() and _fits(each, codec)) else _escaped(each)
        for each in text
    )


def one_line(text: str) -> str:
    """`text` without anything that ends a line or moves a cursor."""
    return legible(text, keep="")


def _fits(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


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
        return one_line(",".join(map(str, value))) or "(none)"
    return one_line(str(value))


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
