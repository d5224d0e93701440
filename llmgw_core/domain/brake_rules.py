"""Which brakes make sense: one set of rules for the configuration and for the tenancy.

Pure; every problem is the name of a field and the end of a sentence about it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.brake import Brake

MONEY: Final = ("session_money", "key_money", "velocity_floor")
COUNTS: Final = ("session_calls", "session_repeats", "key_calls", "key_repeats")
SPANS: Final = ("session_seconds", "key_seconds")
BOUNDS: Final = (
    "session_money",
    "session_calls",
    "session_seconds",
    "session_repeats",
    "key_money",
    "key_calls",
    "key_seconds",
    "key_repeats",
    "velocity_floor",
)
"""The fields of `Brake` that refuse calls; each can be in shadow mode."""
LARGEST_MONEY: Final = 10**18
LARGEST_COUNT: Final = 10**9
LONGEST: Final = 366 * 86400.0
LARGEST_FACTOR: Final = 10_000.0


def problems(brake: Brake) -> Iterator[tuple[str, str]]:
    """What cannot be meant."""
    for name in (*MONEY, *COUNTS):
        value = getattr(brake, name)
        if value is not None and not _whole(value, _least(name), _largest(name)):
            yield name, f"{_what(name)} and not absurdly large, or none"
    for name in SPANS:
        value = getattr(brake, name)
        if value is not None and not _between(value, 1.0, LONGEST):
            yield name, f"is a number of seconds from 1 to {LONGEST:.0f}, or none"
    if not _between(brake.velocity_factor, 1.0, LARGEST_FACTOR):
        yield "velocity_factor", f"is a number from 1 to {LARGEST_FACTOR:.0f}"
    for name in brake.shadow:
        if name not in BOUNDS:
            yield "shadow", f"knows no `{name[:40]}`; bounds are {', '.join(BOUNDS)}"
        elif getattr(brake, name) is None:
            yield "shadow", f"names {name}, which is not set: set it, or leave it out"


def _whole(value: object, low: int, high: int) -> bool:
    # A bool is an int to Python, but no number to anybody else.
    return type(value) is int and low <= value <= high


def _what(name: str) -> str:
    if name in MONEY:
        return "is an amount above 0"
    return f"is a whole number from {_least(name)}"


def _least(name: str) -> int:
    """A request that comes once is no loop."""
    return 2 if name.endswith("repeats") else 1


def _largest(name: str) -> int:
    return LARGEST_MONEY if name in MONEY else LARGEST_COUNT


def _between(value: float, low: float, high: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
