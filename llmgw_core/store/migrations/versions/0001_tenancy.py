"""Organisations, teams, users, memberships, keys, audit log and the version of them all."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables. Written out rather than taken from the code: this is history."""
    op.create_table(
        "organizations",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        *_level(),
        sa.PrimaryKeyConstraint("id", name="pk_organizations"),
        sa.UniqueConstraint("name", name="uq_organizations_name"),
    )
    _create_inside_organization("teams")
    _create_inside_organization("users", sa.Column("email", sa.String(320)))
    _create_memberships()
    _create_api_keys()
    _create_audit()
    version = op.create_table(
        "tenancy_version",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenancy_version"),
        sa.CheckConstraint("id = 1", name=op.f("ck_tenancy_version_single_row")),
    )
    op.bulk_insert(version, [{"id": 1, "version": 1}])


def _level() -> list[sa.Column[Any]]:
    return [
        sa.Column("models", sa.JSON),
        sa.Column("zones", sa.JSON),
        sa.Column("rpm", sa.BigInteger),
        sa.Column("tpm", sa.BigInteger),
        sa.Column("parallel", sa.BigInteger),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    ]


def _organization(table: str) -> list[Any]:
    return [
        sa.Column("organization_id", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organizations.id"],
            name=f"fk_{table}_organization_id_organizations",
            ondelete="CASCADE",
        ),
    ]


def _of(table: str, parent: str) -> sa.ForeignKeyConstraint:
    """`table` belongs to a row of `parent`s of its own organisation."""
    return sa.ForeignKeyConstraint(
        ["organization_id", f"{parent}_id"],
        [f"{parent}s.organization_id", f"{parent}s.id"],
        name=f"fk_{table}_{parent}",
        ondelete="CASCADE",
    )


def _create_inside_organization(table: str, *more: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.String(40), nullable=False),
        *_organization(table),
        sa.Column("name", sa.String(100), nullable=False),
        *more,
        *_level(),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
        sa.UniqueConstraint("organization_id", "name", name=f"uq_{table}_organization_id_name"),
        sa.UniqueConstraint("organization_id", "id", name=f"uq_{table}_organization_id_id"),
    )


def _create_memberships() -> None:
    op.create_table(
        "memberships",
        sa.Column("team_id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(40), nullable=False),
        *_organization("memberships"),
        sa.Column("role", sa.String(10), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("team_id", "user_id", name="pk_memberships"),
        _of("memberships", "team"),
        _of("memberships", "user"),
        sa.CheckConstraint("role IN ('admin', 'member')", name=op.f("ck_memberships_role")),
    )
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"])


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("hint", sa.String(4), nullable=False),
        *_organization("api_keys"),
        sa.Column("team_id", sa.String(40)),
        sa.Column("user_id", sa.String(40)),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked", sa.Boolean, nullable=False),
        *_level(),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("digest", name="uq_api_keys_digest"),
        _of("api_keys", "team"),
        _of("api_keys", "user"),
    )
    op.create_index("ix_api_keys_organization_id_name", "api_keys", ["organization_id", "name"])
    op.create_index("ix_api_keys_team_id", "api_keys", ["team_id"])
    op.create_index("ix_api_keys_user_id", "api_keys", ["user_id"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("object_id", sa.String(100), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_object_id", "audit", ["object_id"])
