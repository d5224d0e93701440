"""What values are valid: names, addresses, grants, limits, expiry. Pure; every function gives
the value back as it is stored, or raises `TenancyError` with a sentence."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from llmgw_core.access import patterns
from llmgw_core.domain.access import NO_ZONE, valid_zone
from llmgw_core.domain.limit_rules import LIMIT_NAMES, problems
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.limits import Limits
    from llmgw_core.tenancy.records import Role

_LOOKS_LIKE_ID = re.compile(r"(org|team|user|key)_[0-9A-Za-z]{22}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_ROLES: dict[str, Role] = {"admin": "admin", "member": "member"}
_LATEST_EXPIRY = 253_402_300_800.0
"""The start of the year 10000: no date in a list or report can say more."""
_LONGEST_LIST = 1000


def name(value: str) -> str:
    """1 to 100 printable characters that cannot be mistaken for an id."""
    if not 1 <= len(value) <= 100 or not value.isprintable() or value != value.strip():
        raise TenancyError(
            "A name consists of 1 to 100 printable characters, without spaces at its ends."
        )
    if _LOOKS_LIKE_ID.fullmatch(value):
        raise TenancyError(f"The name '{value}' looks like an id; choose another one.")
    return value


def email(value: str | None) -> str | None:
    """Something with one @ in it; whether mail arrives there is not ours to know."""
    if value is not None and not (
        len(value) <= 320 and value.isprintable() and _EMAIL.fullmatch(value)
    ):
        raise TenancyError("The e-mail address is not one.")
    return value


def actor(value: str) -> str:
    """Who makes a change: 1 to 200 printable characters."""
    if not 1 <= len(value) <= 200 or not value.isprintable():
        raise TenancyError("The actor of a change must be named by 1 to 200 printable characters.")
    return value


def reason(value: str) -> str:
    """Why something is switched: 1 to 500 printable characters."""
    if not 1 <= len(value.strip()) <= 500 or not value.isprintable():
        raise TenancyError("A switch needs a reason of 1 to 500 printable characters.")
    return value.strip()


def role(value: str) -> Role:
    """`admin` or `member`."""
    known = _ROLES.get(value)
    if known is None:
        raise TenancyError(f"A role is one of {', '.join(_ROLES)}.")
    return known


def models(values: Sequence[str] | None) -> list[str] | None:
    """Patterns, without repetitions, in their order; None inherits."""
    listed = _listed(values, "models")
    for pattern in listed or ():
        if problem := patterns.problem(pattern):
            raise TenancyError(f"'{pattern[:200]}' cannot be granted: {problem}.")
    return listed


def zones(values: Sequence[str] | None) -> list[str] | None:
    """Names of zones, without repetitions, in their order; None inherits."""
    listed = _listed(values, "zones")
    for zone in listed or ():
        if not valid_zone(zone):
            raise TenancyError(f"'{zone[:200]}' is no zone: {NO_ZONE}")
    return listed


def limits(value: Limits) -> dict[str, Any]:
    """The columns of a level's limits."""
    _check(value, "The limit")
    given = _set_fields(value)
    columns = {name: given.pop(name, None) for name in ("rpm", "tpm", "parallel")}
    return {**columns, "limits": given or None}


def model_limits(values: Sequence[tuple[str, Limits]]) -> list[Any] | None:
    """Patterns of models with what holds for each model that they cover; None without any."""
    if len(values) > _LONGEST_LIST:
        raise TenancyError(f"There can be limits on at most {_LONGEST_LIST} patterns of models.")
    found: dict[str, Any] = {}
    for pattern, value in values:
        if problem := patterns.problem(pattern):
            raise TenancyError(f"'{pattern[:200]}' cannot be limited: {problem}.")
        if pattern in found:
            raise TenancyError(f"There are two limits on '{pattern}'; only one can hold.")
        _check(value, f"Of the limits on '{pattern}', the limit")
        found[pattern] = _set_fields(value)
        if not found[pattern]:
            raise TenancyError(f"No limit on '{pattern}' was given.")
    return [list(each) for each in found.items()] or None


def _check(value: Limits, what: str) -> None:
    for field, problem in problems(value):
        hint = "; to stop all calls, disable the object" if field in LIMIT_NAMES else ""
        raise TenancyError(f"{what} {field} {problem}{hint}.")


def _set_fields(value: Limits) -> dict[str, Any]:
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    fields["shadow"] = list(dict.fromkeys(value.shadow)) or None
    return {name: each for name, each in fields.items() if each is not None}


def expiry(value: float | None, now: float) -> float | None:
    """A moment in the future, in seconds since the epoch."""
    if value is None:
        return None
    if not math.isfinite(value) or value <= now:
        raise TenancyError("The expiry of a key must lie in the future.")
    if value >= _LATEST_EXPIRY:
        raise TenancyError(
            "The expiry of a key must lie before the year 10000; or let it never end."
        )
    return float(value)


def switch_expiry(value: float | None, now: float) -> float | None:
    """When a switch ends: a moment in the future, in seconds since the epoch."""
    if value is not None and not now < value < _LATEST_EXPIRY:  # also what is no number
        raise TenancyError("The end of a switch must lie in the future, before the year 10000.")
    return None if value is None else float(value)


def _listed(values: Sequence[str] | None, what: str) -> list[str] | None:
    if values is None:
        return None
    if isinstance(values, str) or len(values) > _LONGEST_LIST:
        raise TenancyError(f"The {what} are a list of at most {_LONGEST_LIST} entries.")
    return list(dict.fromkeys(values))
