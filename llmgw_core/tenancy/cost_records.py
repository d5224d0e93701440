"""Cost centres and whose they are, as administrators see them. Instants are nanoseconds since the
epoch; None is no end."""

from __future__ import annotations

from typing import Literal

import msgspec

CostLevel = Literal["organization", "team", "key"]


class CostCenterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A cost centre. Calls go on it from `valid_from_ns` until before `valid_until_ns`."""

    id: str
    code: str
    name: str
    owner: str
    valid_from_ns: int
    valid_until_ns: int | None
    created_ns: int


class CostAssignment(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of the object go on the cost centre from `since_ns` until before `until_ns`, as far as
    it is valid and no nearer level says otherwise."""

    level: CostLevel
    object_id: str
    center_id: str
    code: str
    since_ns: int
    until_ns: int | None


class CostView(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one organisation, team or key itself: its assignments by time, and the codes
    that its calls may choose in a header."""

    level: CostLevel
    object_id: str
    assignments: tuple[CostAssignment, ...]
    choices: tuple[str, ...]
