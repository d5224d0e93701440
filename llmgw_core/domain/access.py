"""Who is calling: principals and the levels of the hierarchy that they inherit from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, Self

import msgspec

from llmgw_core.domain.brake import NO_BRAKE, Brake
from llmgw_core.domain.cost_center import CostCenters
from llmgw_core.domain.limits import NO_LIMITS, Budget, Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

_ZONE = re.compile(r"[A-Za-z0-9._-]{1,50}")
NO_ZONE = "one consists of 1 to 50 letters, digits and . _ -"
"""What is said of a text that is no name of a zone."""
LevelKind = Literal["organization", "team", "user", "key"]


class Level(msgspec.Struct, frozen=True):
    """One step of organisation → team → user → key.

    `models`: names, wildcards (`gpt-*`) or `tag:NAME`; `None` inherits, except at the
    organisation, where `None` grants nothing. `zones`: `None` inherits; at the organisation
    it allows every zone.
    """

    kind: LevelKind
    id: str
    models: tuple[str, ...] | None = None
    zones: tuple[str, ...] | None = None
    limits: Limits = NO_LIMITS
    name: str = ""
    """Where it is known; the books never hold it."""
    model_limits: tuple[tuple[str, Limits], ...] = ()
    """Limits of this level on single models: a pattern as in `models`, and what holds for every
    model that it covers, each counted for itself."""
    budgets: tuple[Budget, ...] = ()
    brake: Brake = NO_BRAKE
    """For each key below, and each of its sessions; of several levels the tightest holds."""


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. `levels` is ordered from the organisation downwards.

    `expires_at` is in seconds since the epoch. `cost_centers` say who pays, and when; None for
    a caller that has none, whose calls are on no cost centre.
    """

    levels: tuple[Level, ...]
    organization_id: str
    team_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    expires_at: float | None = None
    cost_centers: CostCenters | None = None

    @classmethod
    def of(
        cls,
        organization: str,
        *,
        team: str | None = None,
        user: str | None = None,
        models: Iterable[str] = ("*",),
        zones: Iterable[str] | None = None,
        limits: Limits = NO_LIMITS,
        expires_at: float | None = None,
        cost_center: str | None = None,
    ) -> Self:
        """A principal that an application makes by itself: `organization`, `team` and `user` are
        the ids that go on the books. `models`, `zones` and `limits` are what it may use, as at
        `Level`; the limits are shared by all principals of the organisation. `cost_center`: the id
        of the one that its calls go on. Raises `ValueError` for an id that the books cannot hold,
        and `TypeError` for a single text where several belong."""
        if isinstance(models, str) or isinstance(zones, str):
            raise TypeError("models and zones are lists of texts, not one text.")
        ids: list[tuple[LevelKind, str | None]] = [
            ("organization", organization),
            ("team", team),
            ("user", user),
        ]
        for kind, id in ids:
            if id is not None and not valid_id(id):
                raise ValueError(f"The id of the {kind} has to be 1 to 80 printable characters.")
        first = Level(
            "organization",
            organization,
            tuple(models),
            None if zones is None else tuple(zones),
            limits,
        )
        below = tuple(Level(kind, id) for kind, id in ids[1:] if id is not None)
        if cost_center is not None and not valid_id(cost_center):
            raise ValueError("The id of the cost centre has to be 1 to 80 printable characters.")
        return cls(
            (first, *below),
            organization,
            team,
            user,
            expires_at=expires_at,
            cost_centers=None if cost_center is None else CostCenters.always(cost_center),
        )


class Subject(msgspec.Struct, frozen=True):
    """Who calls, named by an operator instead of proved by a key: the key with the id `key`, or
    an organisation with, if given, a team and a user in it, each by id or name."""

    key: str = ""
    organization: str = ""
    team: str = ""
    user: str = ""


def valid_id(value: object) -> bool:
    """Whether the books can hold this id of an organisation, team, user or key."""
    return isinstance(value, str) and 0 < len(value) <= 80 and value.isprintable()


def valid_zone(value: str) -> bool:
    """Whether this can be the name of a zone: of a deployment, in a grant, in a header."""
    return _ZONE.fullmatch(value) is not None
