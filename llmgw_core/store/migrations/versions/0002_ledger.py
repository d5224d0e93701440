"""The ledger: one row for every call, and the sums by the hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables. Written out rather than taken from the code: this is history."""
    _create_ledger()
    _create_usage_hours()


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column(
            "cursor",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("call_id", sa.String(80), nullable=False),
        sa.Column("started_ns", sa.BigInteger, nullable=False),
        sa.Column("endpoint", sa.String(40), nullable=False),
        sa.Column("organization_id", sa.String(80), nullable=False),
        *(sa.Column(name, sa.String(80)) for name in ("team_id", "user_id", "key_id")),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("model", "served_model", "deployment", "zone")
        ),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("http_status", sa.Integer, nullable=False),
        sa.Column("error_code", sa.Text, nullable=False),
        *_big("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"),
        sa.Column("usage_source", sa.String(20), nullable=False),
        *_big("cost", "charge"),
        sa.Column("currency", sa.String(10), nullable=False),
        *_big("duration_us", "first_content_us"),
        sa.Column("attempts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("cursor", name="pk_ledger"),
        sa.UniqueConstraint("call_id", name="uq_ledger_call_id"),
        sqlite_autoincrement=True,
    )


def _create_usage_hours() -> None:
    ids = ("organization_id", "team_id", "user_id", "key_id")
    names = ("model", "served_model", "deployment")
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.Integer, autoincrement=False, nullable=False),
        *(sa.Column(name, sa.String(80), nullable=False) for name in ids),
        *(sa.Column(name, sa.Text, nullable=False) for name in names),
        *_big("calls", "estimated_calls"),
        *_big("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens"),
        *_big("cost", "charge"),
        sa.PrimaryKeyConstraint("hour", *ids, *names, name="pk_usage_hours"),
        sqlite_with_rowid=False,
    )


def _big(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]
