"""Limits by the day and on single models, and budgets, on every level."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Nobody has any yet: NULL."""
    for table in ("organizations", "teams", "users", "api_keys"):
        for name in ("limits", "model_limits", "budgets", "brake"):
            op.add_column(table, sa.Column(name, sa.JSON(none_as_null=True)))
