"""The table of what was learned about the lengths of texts in tokens, per model."""

from __future__ import annotations

from sqlalchemy import Column, Float, Table, Text

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
