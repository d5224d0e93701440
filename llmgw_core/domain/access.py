"""Who is calling: principals and the levels of the hierarchy that they inherit from."""

from __future__ import annotations

from typing import Literal

import msgspec

LevelKind = Literal["organization", "team", "user", "key"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one level (or one model) may use. `None` = no limit of its own.

    `rpm`: admitted requests in any 60 seconds. `tpm`: tokens, input plus output, in any
    60 seconds. `parallel`: calls in flight at once.
    """

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None


NO_LIMITS = Limits()


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


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller. `levels` is ordered from the organisation downwards.

    `expires_at` is in seconds since the epoch.
    """

    levels: tuple[Level, ...]
    organization_id: str
    team_id: str | None = None
    user_id: str | None = None
    key_id: str | None = None
    expires_at: float | None = None


class Subject(msgspec.Struct, frozen=True):
    """Who calls, named by an operator instead of proved by a key: the key with the id `key`, or
    an organisation with, if given, a team and a user in it, each by id or name."""

    key: str = ""
    organization: str = ""
    team: str = ""
    user: str = ""
