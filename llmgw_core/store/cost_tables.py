"""The tables of cost centres: what there is, whose they are and when, and who may choose which.

Instants are nanoseconds since the epoch, as in the ledger, so that a calendar is exact. NULL is
no end. What calls have been booked on is never erased, so neither is a cost centre.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
)

from llmgw_core.store.metadata import metadata

cost_centers = Table(
    "cost_centers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("code", String(40), nullable=False, unique=True),
    Column("name", String(100), nullable=False),
    Column("owner", String(200), nullable=False),
    Column("valid_from_ns", BigInteger, nullable=False),
    Column("valid_until_ns", BigInteger),
    Column("created_ns", BigInteger, nullable=False),
)

cost_assignments = Table(
    "cost_assignments",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    # "organization", "team" or "key", and the id of that object. No foreign key: who is erased has
    # still been billed.
    Column("level", String(20), nullable=False),
    Column("object_id", String(80), nullable=False),
    Column("center_id", String(40), ForeignKey("cost_centers.id"), nullable=False),
    Column("since_ns", BigInteger, nullable=False),
    Column("until_ns", BigInteger),
    # When it was replaced by others; NULL for what holds.
    Column("replaced_ns", BigInteger),
    CheckConstraint("until_ns IS NULL OR until_ns > since_ns", name="order"),
    Index("ix_cost_assignments_object_id", "object_id"),
)
"""Those of one object that hold never overlap. None is deleted: it says what was once true."""

cost_choices = Table(
    "cost_choices",
    metadata,
    Column("level", String(20), primary_key=True),
    Column("object_id", String(80), primary_key=True),
    Column("center_id", String(40), ForeignKey("cost_centers.id"), primary_key=True),
)
"""What a header may name: those of the key, and if it has none, those of its team."""
