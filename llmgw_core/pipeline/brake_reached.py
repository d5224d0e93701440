"""What the caller is told when a bound of the brake is reached: which one, and when it ends.
Amounts of money are for operators."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import loop_detected, run_limit_exceeded, velocity_exceeded

if TYPE_CHECKING:
    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.limits.brake_book import BrakeBook, Braked

RESET = b"x-llmgw-brake-reset"
"""In refusals: the instant from which on a call is let through again, if that is known."""


def brake_reached(error: Braked, owner: tuple[LevelKind, str], book: BrakeBook) -> GatewayError:
    """The refusal; operators hear of the bound."""
    left = None if error.end is None else max(0.0, error.end - book.clock())
    reset = "" if left is None else _instant(book.wall_clock() + left)
    make = _KINDS.get(error.bound, run_limit_exceeded)
    refusal = make(f"{_what(error)} {_when(error, reset, book.runs.idle)}", left)
    if reset:
        refusal.headers = [(RESET, reset.encode())]
    return refusal.decided_by(name_of(owner, error))


def name_of(owner: tuple[LevelKind, str], error: Braked) -> str:
    """What the bound is called where operators read of it: `brake key:key_1:session_calls`."""
    bound = "velocity_floor" if error.bound == "velocity" else f"{error.scope}_{error.bound}"
    return f"brake {':'.join(owner)}:{bound}"


_KINDS = {"velocity": velocity_exceeded, "repeats": loop_detected}


def _what(error: Braked) -> str:
    whose, limit = f"this {error.scope}", error.limit
    if error.bound == "velocity":
        return "This key has spent far more in ten minutes than is usual for it."
    if error.bound == "repeats":
        return f"The same request has come {limit:g} times in a row from {whose}."
    if error.bound == "calls":
        return f"{limit:g} calls of {whose} without a longer pause are the bound."
    if error.bound == "seconds":
        return f"{limit:g} seconds of calls of {whose} without a longer pause are the bound."
    return f"What calls of {whose} may cost without a longer pause is used up."


def _when(error: Braked, reset: str, idle: float) -> str:
    other = "Another request is let through" if error.bound == "repeats" else ""
    if error.bound == "velocity":
        lift = " Whoever administers the key may lift this for an hour."
        return (f"It ends at {reset}." if reset else "It waits for calls under way.") + lift
    if reset:
        return f"{other}; this one at {reset}." if other else f"It ends at {reset}."
    pause = f"{idle:g} seconds after the last call under way has ended"
    return f"{other}; this one {pause}." if other else f"It ends {pause}."


def _instant(at: float) -> str:
    """Rounded up to whole seconds, in UTC and ISO 8601."""
    return dt.datetime.fromtimestamp(-(-at // 1), dt.UTC).isoformat()
