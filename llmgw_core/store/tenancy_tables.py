"""The tables of organisations, teams, users, memberships, keys and the audit log.

Times are seconds since the epoch. `models` and `zones` are JSON lists or NULL (inherits).
Composite foreign keys keep a team, a user and a key inside one organisation. That a key with
team and user needs the membership is checked when the key is made and again whenever it is
looked up; it is no foreign key, because revoked keys outlive memberships.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
)

from llmgw_core.store.metadata import metadata

if TYPE_CHECKING:
    from llmgw_core.domain.access import LevelKind


def _level() -> list[Column[Any]]:
    """What every level of the hierarchy has."""
    return [
        Column("models", JSON(none_as_null=True)),
        Column("zones", JSON(none_as_null=True)),
        Column("rpm", BigInteger),
        Column("tpm", BigInteger),
        Column("parallel", BigInteger),
        # The other fields of Limits, as far as they are set; a list of [pattern, Limits]; a list
        # of Budget; a Brake.
        Column("limits", JSON(none_as_null=True)),
        Column("model_limits", JSON(none_as_null=True)),
        Column("budgets", JSON(none_as_null=True)),
        Column("brake", JSON(none_as_null=True)),
        Column("disabled", Boolean, nullable=False, default=False),
        Column("created", Float, nullable=False),
    ]


def _in_organization() -> Column[Any]:
    return Column(
        "organization_id",
        String(40),
        ForeignKey("organizations.id", ondelete="CASCADE"),
        nullable=False,
    )


organizations = Table(
    "organizations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    *_level(),
)

teams = Table(
    "teams",
    metadata,
    Column("id", String(40), primary_key=True),
    _in_organization(),
    Column("name", String(100), nullable=False),
    *_level(),
    UniqueConstraint("organization_id", "name", name="uq_teams_organization_id_name"),
    # The target of composite foreign keys.
    UniqueConstraint("organization_id", "id", name="uq_teams_organization_id_id"),
)

users = Table(
    "users",
    metadata,
    Column("id", String(40), primary_key=True),
    _in_organization(),
    Column("name", String(100), nullable=False),
    Column("email", String(320)),
    *_level(),
    UniqueConstraint("organization_id", "name", name="uq_users_organization_id_name"),
    UniqueConstraint("organization_id", "id", name="uq_users_organization_id_id"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("team_id", String(40), primary_key=True),
    Column("user_id", String(40), primary_key=True),
    _in_organization(),
    Column("role", String(10), nullable=False),
    Column("created", Float, nullable=False),
    ForeignKeyConstraint(
        ["organization_id", "team_id"],
        ["teams.organization_id", "teams.id"],
        name="fk_memberships_team",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["organization_id", "user_id"],
        ["users.organization_id", "users.id"],
        name="fk_memberships_user",
        ondelete="CASCADE",
    ),
    CheckConstraint("role IN ('admin', 'member')", name="role"),
    Index("ix_memberships_user_id", "user_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("hint", String(4), nullable=False),
    _in_organization(),
    Column("team_id", String(40)),
    Column("user_id", String(40)),
    Column("name", String(100), nullable=False),
    Column("expires_at", Float),
    Column("revoked", Boolean, nullable=False, default=False),
    *_level(),
    ForeignKeyConstraint(
        ["organization_id", "team_id"],
        ["teams.organization_id", "teams.id"],
        name="fk_api_keys_team",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["organization_id", "user_id"],
        ["users.organization_id", "users.id"],
        name="fk_api_keys_user",
        ondelete="CASCADE",
    ),
    Index("ix_api_keys_organization_id_name", "organization_id", "name"),
    Index("ix_api_keys_team_id", "team_id"),
    Index("ix_api_keys_user_id", "user_id"),
)

LEVELS: dict[LevelKind, Table] = {
    "organization": organizations,
    "team": teams,
    "user": users,
    "key": api_keys,
}
"""From above downwards."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("object_id", String(100), nullable=False),
    Column("details", JSON, nullable=False),
    Index("ix_audit_object_id", "object_id"),
)

tenancy_version = Table(
    "tenancy_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="single_row"),
)
"""One row, made by the migration; every write to the tables above adds one to `version`."""
