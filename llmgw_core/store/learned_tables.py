"""The tables of what was learned: about the lengths of texts in tokens, per model, and about what
keys usually spend."""

from __future__ import annotations

from sqlalchemy import Column, Float, String, Table, Text

from llmgw_core.store.metadata import metadata

learned_models = Table(
    "learned_models",
    metadata,
    Column("model", Text, primary_key=True),
    Column("input_ratio", Float, nullable=False),
    Column("output_ratio", Float, nullable=False),
    Column("output", Float, nullable=False),
    Column("step", Float, nullable=False),
)

learned_spending = Table(
    "learned_spending",
    metadata,
    Column("kind", String(20), primary_key=True),
    Column("id", String(80), primary_key=True),
    Column("total", Float, nullable=False),
    Column("weight", Float, nullable=False),
    Column("at", Float, nullable=False),
)
