"""Organisations, teams, users, memberships, keys and audit entries as administrators see them.

Times are seconds since the epoch. No record contains a key or its digest.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from llmgw_core.domain.access import LevelKind  # noqa: TC001 -- msgspec reads the annotations
from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.domain.limits import Budget, Limits, limits_of

Role = Literal["admin", "member"]


class LevelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What all levels have; the grants are explained at `domain.access.Level`."""

    id: str
    name: str
    models: tuple[str, ...] | None
    zones: tuple[str, ...] | None
    limits: Limits
    model_limits: tuple[tuple[str, Limits], ...] = ()
    budgets: tuple[Budget, ...] = ()
    brake: Brake = NO_BRAKE
    disabled: bool
    created: float


class OrganizationInfo(LevelInfo, frozen=True, kw_only=True):
    """An organisation."""


class TeamInfo(LevelInfo, frozen=True, kw_only=True):
    """A team of an organisation."""

    organization_id: str


class UserInfo(LevelInfo, frozen=True, kw_only=True):
    """A user of an organisation."""

    organization_id: str
    email: str | None


class KeyInfo(LevelInfo, frozen=True, kw_only=True):
    """A key of an organisation, and perhaps of one of its teams and users. `hint` is how the
    key ends. A revoked key never works again."""

    organization_id: str
    team_id: str | None
    user_id: str | None
    hint: str
    expires_at: float | None
    revoked: bool


class MembershipInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A user in a team."""

    organization_id: str
    team_id: str
    user_id: str
    role: Role
    created: float


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed what. `details` holds no secrets, and no names or addresses of users. An entry
    with the id 0 is an event of the gateway itself, which observers hear of and no list has."""

    id: int
    at: float
    actor: str
    action: str
    kind: str
    object_id: str
    details: dict[str, Any]


T = TypeVar("T", bound=LevelInfo)


class Kind(Generic[T]):
    """One of the four kinds of objects: what `Tenancy`'s methods for all kinds are told."""

    def __init__(self, level: LevelKind, word: str, info: type[T]) -> None:
        self.level: LevelKind = level
        self.word = word
        self.info = info

    def read(self, row: dict[str, Any]) -> T:
        """The record of a row of the database."""
        values = {name: row[name] for name in self.info.__struct_fields__ if name in row}
        values["limits"] = limits_of(row["rpm"], row["tpm"], row["parallel"], row.get("limits"))
        values["model_limits"] = row.get("model_limits") or ()
        values["budgets"] = row.get("budgets") or ()
        values["brake"] = row.get("brake") or {}
        return msgspec.convert(values, self.info)


ORGANIZATION = Kind("organization", "organisation", OrganizationInfo)
TEAM = Kind("team", "team", TeamInfo)
USER = Kind("user", "user", UserInfo)
KEY = Kind("key", "key", KeyInfo)

KINDS: dict[str, Kind[Any]] = {kind.level: kind for kind in (ORGANIZATION, TEAM, USER, KEY)}
