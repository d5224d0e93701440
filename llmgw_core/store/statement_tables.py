"""The tables of statements. A closed statement is what its rows say, for ever: names, prices and
amounts are stored as they were shown, so that nothing that happens later can change it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from llmgw_core.store.metadata import metadata

statements = Table(
    "statements",
    metadata,
    Column("id", String(40), primary_key=True),
    # The id of an organisation, "" for everybody.
    Column("scope", String(80), nullable=False),
    Column("period", String(20), nullable=False),
    Column("timezone", String(64), nullable=False),
    Column("start_ns", BigInteger, nullable=False),
    Column("end_ns", BigInteger, nullable=False),
    Column("state", String(10), nullable=False),
    # The last row of the ledger that it knows of.
    Column("cursor", BigInteger, nullable=False),
    # JSON: currency, sums, rounding, notes.
    Column("summary", Text, nullable=False),
    # SHA-256 of summary and lines; "" while it is open.
    Column("digest", String(64), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("closed_ns", BigInteger),
    Column("closed_by", String(200)),
    UniqueConstraint("scope", "start_ns", name="uq_statements_scope"),
)

statement_lines = Table(
    "statement_lines",
    metadata,
    Column("statement_id", String(40), ForeignKey("statements.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    # The statement whose time it is about: another one in adjustments.
    Column("about", String(40), nullable=False, index=True),
    # JSON: the line.
    Column("line", Text, nullable=False),
)
