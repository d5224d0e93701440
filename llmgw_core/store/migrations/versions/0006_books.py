"""All classes of tokens, prices and cost centres; sums by the day; what was learned."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_IDS = ("organization_id", "team_id", "user_id", "key_id", "cost_center")
_NAMES = ("model", "served_model", "deployment")
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
    "images",
)
_GROUPS = """
INSERT INTO usage_groups (
    organization_id, team_id, user_id, key_id, cost_center, endpoint, model, served_model,
    deployment, price
)
SELECT DISTINCT organization_id, COALESCE(team_id, ''), COALESCE(user_id, ''),
    COALESCE(key_id, ''), '', endpoint, model, served_model, deployment, ''
FROM ledger
"""
_FILL = """
INSERT INTO {table} (
    {period}, group_id, calls, estimated_calls, input_tokens, output_tokens, cached_input_tokens,
    reasoning_tokens, cost, charge
)
SELECT {moment}, usage_groups.id, COUNT(*),
    SUM(CASE WHEN usage_source = 'estimated' THEN 1 ELSE 0 END), SUM(input_tokens),
    SUM(output_tokens), SUM(cached_input_tokens), SUM(reasoning_tokens), SUM(cost), SUM(charge)
FROM ledger JOIN usage_groups ON usage_groups.organization_id = ledger.organization_id
    AND usage_groups.team_id = COALESCE(ledger.team_id, '')
    AND usage_groups.user_id = COALESCE(ledger.user_id, '')
    AND usage_groups.key_id = COALESCE(ledger.key_id, '')
    AND usage_groups.endpoint = ledger.endpoint
    AND usage_groups.model = ledger.model
    AND usage_groups.served_model = ledger.served_model
    AND usage_groups.deployment = ledger.deployment
GROUP BY 1, 2
"""
_COARSE_GROUPS = """
INSERT INTO usage_groups (
    organization_id, team_id, user_id, key_id, cost_center, endpoint, model, served_model,
    deployment, price
)
SELECT DISTINCT organization_id, '', '', '', '', endpoint, model, served_model, deployment, ''
FROM usage_groups WHERE true
ON CONFLICT DO NOTHING
"""
_FILL_TOTALS = """
INSERT INTO usage_day_totals (
    day, group_id, calls, estimated_calls, input_tokens, output_tokens, cached_input_tokens,
    reasoning_tokens, cost, charge
)
SELECT day, coarse.id, SUM(calls), SUM(estimated_calls), SUM(input_tokens), SUM(output_tokens),
    SUM(cached_input_tokens), SUM(reasoning_tokens), SUM(cost), SUM(charge)
FROM usage_days JOIN usage_groups AS fine ON fine.id = usage_days.group_id
    JOIN usage_groups AS coarse ON coarse.organization_id = fine.organization_id
    AND coarse.team_id = '' AND coarse.user_id = '' AND coarse.key_id = ''
    AND coarse.cost_center = '' AND coarse.endpoint = fine.endpoint
    AND coarse.model = fine.model AND coarse.served_model = fine.served_model
    AND coarse.deployment = fine.deployment AND coarse.price = ''
GROUP BY 1, 2
"""
_HOUR = 3_600 * 10**9
_MONTH = f"""
CAST(strftime('%Y', started_ns / {10**9}, 'unixepoch') AS INTEGER) * 12
    + CAST(strftime('%m', started_ns / {10**9}, 'unixepoch') AS INTEGER) - 1
"""
"""Months since the year 0."""


def upgrade() -> None:
    """Rows from before had no price sheet and no cost centre; the sums are made anew of them."""
    op.add_column(
        "ledger", sa.Column("usage_method", sa.String(40), nullable=False, server_default="")
    )
    op.add_column("ledger", sa.Column("usage_details", sa.Text))
    op.add_column(
        "ledger", sa.Column("cost_center", sa.String(80), nullable=False, server_default="")
    )
    op.add_column(
        "ledger", sa.Column("entry", sa.String(12), nullable=False, server_default="call")
    )
    op.add_column("ledger", sa.Column("corrects", sa.String(80)))
    op.drop_table("usage_hours")
    _create_groups()
    op.execute(_GROUPS)
    for table, period, moment in (
        ("usage_hours", "hour", f"started_ns / {_HOUR}"),
        ("usage_days", "day", f"started_ns / {24 * _HOUR}"),
        ("usage_months", "month", _MONTH),
    ):
        _create_sums(table, period)
        op.execute(_FILL.format(table=table, period=period, moment=moment))
    _create_sums("usage_day_totals", "day")
    op.execute(_COARSE_GROUPS)
    op.execute(_FILL_TOTALS)
    op.create_table(
        "pruned",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("before_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_pruned"),
    )
    op.create_index("ix_ledger_started_ns", "ledger", ["started_ns"])
    op.create_table(
        "touched_hours",
        sa.Column("hour", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("hour", name="pk_touched_hours"),
    )
    op.create_table(
        "price_sheets",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("sheet", sa.Text, nullable=False),
        sa.Column("first_used_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_price_sheets"),
    )
    op.create_table(
        "learned_models",
        sa.Column("model", sa.Text, nullable=False),
        *(
            sa.Column(name, sa.Float, nullable=False)
            for name in ("input_ratio", "output_ratio", "output", "step")
        ),
        sa.PrimaryKeyConstraint("model", name="pk_learned_models"),
    )
    op.create_table(
        "learned_spending",
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in ("total", "weight", "at")),
        sa.PrimaryKeyConstraint("kind", "id", name="pk_learned_spending"),
    )


def _create_groups() -> None:
    op.create_table(
        "usage_groups",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        *(sa.Column(name, sa.String(80), nullable=False) for name in _IDS),
        sa.Column("endpoint", sa.String(40), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in _NAMES),
        sa.Column("price", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_groups"),
        sa.UniqueConstraint(
            *_IDS, "endpoint", *_NAMES, "price", name="uq_usage_groups_organization_id"
        ),
    )


def _create_sums(table: str, period: str) -> None:
    sums = ("calls", "estimated_calls", *_TOKENS, "cost", "charge")
    op.create_table(
        table,
        sa.Column(period, sa.Integer, autoincrement=False, nullable=False),
        sa.Column("group_id", sa.BigInteger, autoincrement=False, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in sums),
        sa.PrimaryKeyConstraint(period, "group_id", name=f"pk_{table}"),
        sqlite_with_rowid=False,
    )
