"""The table of emergency switches: what is in force, and what has expired until somebody looks.

Times are seconds since the epoch. A switch that is taken back is deleted; that there was one is in
the audit log.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Integer, String, Table, Text, UniqueConstraint

from llmgw_core.store.metadata import metadata

switches = Table(
    "switches",
    metadata,
    # Never reused: one that replaces another has another id.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("name", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("since", Float, nullable=False),
    Column("expires_at", Float),
    Column("cut", Boolean, nullable=False),
    UniqueConstraint("kind", "name", name="uq_switches_kind_name"),
    sqlite_autoincrement=True,
)
