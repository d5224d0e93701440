"""Canary rollouts, and where the aliases of embeddings lead, survive a restart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables; no rollout has been made."""
    op.create_table(
        "rollouts",
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("alias", name="pk_rollouts"),
    )
    op.create_table(
        "embedding_targets",
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dimensions", sa.Integer),
        sa.PrimaryKeyConstraint("alias", name="pk_embedding_targets"),
    )
