"""Cost centres, whose they are and when, and the statements that are made of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "cost_centers",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("code", sa.String(40), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("valid_from_ns", sa.BigInteger, nullable=False),
        sa.Column("valid_until_ns", sa.BigInteger),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cost_centers"),
        sa.UniqueConstraint("code", name="uq_cost_centers_code"),
    )
    _create_assignments()
    op.create_table(
        "cost_choices",
        sa.Column("level", sa.String(20), nullable=False),
        sa.Column("object_id", sa.String(80), nullable=False),
        sa.Column("center_id", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("level", "object_id", "center_id", name="pk_cost_choices"),
        sa.ForeignKeyConstraint(
            ["center_id"], ["cost_centers.id"], name="fk_cost_choices_center_id_cost_centers"
        ),
    )
    _create_statements()


def _create_assignments() -> None:
    op.create_table(
        "cost_assignments",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("level", sa.String(20), nullable=False),
        sa.Column("object_id", sa.String(80), nullable=False),
        sa.Column("center_id", sa.String(40), nullable=False),
        sa.Column("since_ns", sa.BigInteger, nullable=False),
        sa.Column("until_ns", sa.BigInteger),
        sa.Column("replaced_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_cost_assignments"),
        sa.ForeignKeyConstraint(
            ["center_id"], ["cost_centers.id"], name="fk_cost_assignments_center_id_cost_centers"
        ),
        sa.CheckConstraint(
            "until_ns IS NULL OR until_ns > since_ns", name=op.f("ck_cost_assignments_order")
        ),
    )
    op.create_index("ix_cost_assignments_object_id", "cost_assignments", ["object_id"])


def _create_statements() -> None:
    op.create_table(
        "statements",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("scope", sa.String(80), nullable=False),
        sa.Column("period", sa.String(20), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("start_ns", sa.BigInteger, nullable=False),
        sa.Column("end_ns", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("closed_ns", sa.BigInteger),
        sa.Column("closed_by", sa.String(200)),
        sa.PrimaryKeyConstraint("id", name="pk_statements"),
        sa.UniqueConstraint("scope", "start_ns", name="uq_statements_scope"),
    )
    op.create_table(
        "statement_lines",
        sa.Column("statement_id", sa.String(40), nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("about", sa.String(40), nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("statement_id", "number", name="pk_statement_lines"),
        sa.ForeignKeyConstraint(
            ["statement_id"], ["statements.id"], name="fk_statement_lines_statement_id_statements"
        ),
    )
    op.create_index("ix_statement_lines_about", "statement_lines", ["about"])
