"""The tables of the ledger: one row for every admitted call, and sums of them by UTC hour.

Amounts are nano-units, times nanoseconds since the epoch, durations microseconds. There are
internal ids and no foreign keys: erasing a person or an organisation leaves the sums. In the
sums an absent id is the empty string, because it is a part of the key.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Table, Text

from llmgw_core.store.metadata import metadata

_Serial = BigInteger().with_variant(Integer, "sqlite")

ledger = Table(
    "ledger",
    metadata,
    # Never reused and in the order of commits: the cursor of whoever reads along.
    Column("cursor", _Serial, primary_key=True, autoincrement=True),
    Column("call_id", String(80), nullable=False, unique=True),
    Column("started_ns", BigInteger, nullable=False),
    Column("endpoint", String(40), nullable=False),
    Column("organization_id", String(80), nullable=False),
    Column("team_id", String(80)),
    Column("user_id", String(80)),
    Column("key_id", String(80)),
    Column("model", Text, nullable=False),
    Column("served_model", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("status", String(20), nullable=False),
    Column("http_status", Integer, nullable=False),
    Column("error_code", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("usage_source", String(20), nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    Column("currency", String(10), nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("first_content_us", BigInteger, nullable=False),
    # JSON: a list of lists, the fields of AttemptRecord in their order.
    Column("attempts", Text, nullable=False),
    Column("parent", String(80)),
    sqlite_autoincrement=True,
)

usage_hours = Table(
    "usage_hours",
    metadata,
    # Hours since the epoch.
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("organization_id", String(80), primary_key=True),
    Column("team_id", String(80), primary_key=True),
    Column("user_id", String(80), primary_key=True),
    Column("key_id", String(80), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("served_model", Text, primary_key=True),
    Column("deployment", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("estimated_calls", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
