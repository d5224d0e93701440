"""What values of cost centres are valid. Pure; every function gives the value back as it is stored,
or raises `TenancyError` with a sentence."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Final

from llmgw_core.domain.cost_center import FOREVER
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from collections.abc import Iterable

_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,39}")
_LOOKS_LIKE_ID: Final = re.compile(r"cc_[0-9A-Za-z]{22}")
_LATEST_NS: Final = 253_402_300_800 * 10**9
"""The start of the year 10000, beyond which no date can be written."""


def code(value: str) -> str:
    """What a header can carry and a spreadsheet takes for a text."""
    if not _CODE.fullmatch(value):
        raise TenancyError(
            "The code of a cost centre consists of 1 to 40 letters, digits and . _ / -, a letter or"
            " digit first."
        )
    if _LOOKS_LIKE_ID.fullmatch(value):
        raise TenancyError(f"The code '{value}' looks like an id; choose another one.")
    return value


def owner(value: str) -> str:
    """Who answers for it: up to 200 printable characters, or nothing."""
    if len(value) > 200 or not value.isprintable() or value != value.strip():
        raise TenancyError(
            "The owner of a cost centre is named by up to 200 printable characters, without spaces"
            " at its ends."
        )
    return value


def instant(value: int | None, default: int) -> int:
    """Nanoseconds since the epoch."""
    if value is None:
        return default
    if not 0 <= value < _LATEST_NS:
        raise TenancyError("The moment must lie between the years 1970 and 9999.")
    return value


def end(value: int | None, since_ns: int) -> int | None:
    """When something ends that begins at `since_ns`."""
    if value is None:
        return None
    if instant(value, FOREVER) <= since_ns:
        raise TenancyError("The end must lie behind the beginning.")
    return value


def open_time(
    since_ns: int, closed: Iterable[tuple[str, int, int]], until_ns: int | None = None
) -> None:
    """Raise `TenancyError` when a change between two instants reaches into the time of a closed
    statement; `closed` are name, start and end of those."""
    behind = [each for each in closed if since_ns < each[2] and each[1] < (until_ns or FOREVER)]
    if behind:
        name, _, over = max(behind, key=lambda each: each[2])
        first = dt.datetime.fromtimestamp(over / 1e9, dt.UTC).strftime("%Y-%m-%dT%H:%MZ")
        raise TenancyError(
            f"The statement of {name} is closed for good; date the change {first} or later."
        )
