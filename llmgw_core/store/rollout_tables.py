"""The tables of canary rollouts (the last one of every alias; what was before is in the audit log)
and of what aliases of embeddings have led to until now.

Times are seconds since the epoch, shares percent; `base` is a JSON list of variants.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, String, Table, Text

from llmgw_core.store.metadata import metadata

rollouts = Table(
    "rollouts",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("share", Float, nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("base", Text, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("started", Float, nullable=False),
    Column("changed", Float, nullable=False),
)

embedding_targets = Table(
    "embedding_targets",
    metadata,
    Column("alias", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("dimensions", Integer),
)
