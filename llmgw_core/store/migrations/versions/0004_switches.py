"""Emergency switches survive a restart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table; nothing is switched off."""
    op.create_table(
        "switches",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("name", "target", "reason")),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("cut", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_switches"),
        sa.UniqueConstraint("kind", "name", name="uq_switches_kind_name"),
        sqlite_autoincrement=True,
    )
