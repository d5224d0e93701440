"""The ledger says which calls plugins made, and in the course of which call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Rows from before were calls of clients: NULL."""
    op.add_column("ledger", sa.Column("parent", sa.String(80)))
