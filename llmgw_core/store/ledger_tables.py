"""The tables of the ledger: one row for every admitted call, and sums of them by UTC hour and day.

Amounts are nano-units, times nanoseconds since the epoch, durations microseconds. There are
internal ids and no foreign keys: erasing a person or an organisation leaves the sums. In the
groups an absent id is the empty string, because it is a part of the key.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Table, Text, UniqueConstraint

from llmgw_core.store.metadata import metadata

_Serial = BigInteger().with_variant(Integer, "sqlite")

ledger = Table(
    "ledger",
    metadata,
    # Never reused and in the order of commits: the cursor of whoever reads along.
    Column("cursor", _Serial, primary_key=True, autoincrement=True),
    Column("call_id", String(80), nullable=False, unique=True),
    Column("started_ns", BigInteger, nullable=False, index=True),
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
    Column("usage_method", String(40), nullable=False, server_default=""),
    # JSON: a list, the fields of UsageDetails in their order; NULL where there are none.
    Column("usage_details", Text),
    Column("cost_center", String(80), nullable=False, server_default=""),
    Column("entry", String(12), nullable=False, server_default="call"),
    Column("corrects", String(80)),
    sqlite_autoincrement=True,
)


TOKENS = (
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
SUMS = ("calls", "estimated_calls", *TOKENS, "cost", "charge")


GROUP = (
    "organization_id",
    "team_id",
    "user_id",
    "key_id",
    "cost_center",
    "endpoint",
    "model",
    "served_model",
    "deployment",
    "price",
)

COARSE = ("organization_id", "endpoint", "model", "served_model", "deployment")

usage_groups = Table(
    "usage_groups",
    metadata,
    # What sums are kept apart by, written down once; never changed and never deleted. `price` is
    # the id of a price sheet, "" where there was no price.
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("organization_id", String(80), nullable=False),
    Column("team_id", String(80), nullable=False),
    Column("user_id", String(80), nullable=False),
    Column("key_id", String(80), nullable=False),
    Column("cost_center", String(80), nullable=False),
    Column("endpoint", String(40), nullable=False),
    Column("model", Text, nullable=False),
    Column("served_model", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("price", String(40), nullable=False),
    UniqueConstraint(*GROUP),
)


def _sums(period: str) -> list[Column[Any]]:
    """A table of sums by a `period` of UTC, counted since the epoch, and group."""
    return [
        Column(period, Integer, primary_key=True, autoincrement=False),
        Column("group_id", BigInteger, primary_key=True, autoincrement=False),
        *(Column(name, BigInteger, nullable=False, server_default="0") for name in SUMS),
    ]


usage_hours = Table("usage_hours", metadata, *_sums("hour"), sqlite_with_rowid=False)
usage_days = Table("usage_days", metadata, *_sums("day"), sqlite_with_rowid=False)
# Months since the year 0.
usage_months = Table("usage_months", metadata, *_sums("month"), sqlite_with_rowid=False)
# The days once more, by groups that have nothing but what is in `COARSE`: a report by the day over
# a year must not read what every key did on every day.
usage_day_totals = Table("usage_day_totals", metadata, *_sums("day"), sqlite_with_rowid=False)

pruned = Table(
    "pruned",
    metadata,
    # What retention has deleted: the name of a table, and the first moment that is still whole in
    # it (nanoseconds since the epoch).
    Column("name", String(40), primary_key=True),
    Column("before_ns", BigInteger, nullable=False),
)

touched_hours = Table(
    "touched_hours",
    metadata,
    # The last row of the ledger that went into the sums of that hour: who has closed the hour can
    # see whether something came later.
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("cursor", BigInteger, nullable=False),
)

price_sheets = Table(
    "price_sheets",
    metadata,
    # Derived from the content, so that equal prices have one id for ever.
    Column("id", String(40), primary_key=True),
    # JSON: the rates of both sides, as `accounting` reads them.
    Column("sheet", Text, nullable=False),
    Column("first_used_ns", BigInteger, nullable=False),
)
