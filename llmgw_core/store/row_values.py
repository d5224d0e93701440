"""A record as a row of the ledger, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.domain.usage import AttemptRecord, Usage, UsageDetails, UsageRecord
from llmgw_core.store.ledger_tables import ledger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Row

RARE: Final = ("parent", "usage_details", "entry", "corrects")
"""What most rows have no value of, so that it is not even bound."""
COLUMNS: Final = tuple(column.name for column in ledger.c if column.name != "cursor")
PLAIN: Final = tuple(name for name in COLUMNS if name not in RARE)

_ABSURD: Final = 10**15
"""What is left of a figure that does not fit 64 bits: thousands of them still can be added."""

_encode = msgspec.json.Encoder().encode
_decode_details = msgspec.json.Decoder(UsageDetails).decode
_decode_attempts = msgspec.json.Decoder(tuple[AttemptRecord, ...]).decode


class LedgerRow(msgspec.Struct, frozen=True):
    """A stored record; `cursor` grows with every commit and is never reused."""

    cursor: int
    record: UsageRecord


def plain_values(records: Iterable[UsageRecord], rare: list[UsageRecord]) -> list[Any]:
    """The values of `PLAIN` columns, one row after the other. Records that have more than these
    are put into `rare` instead."""
    values: list[Any] = []
    for record in records:
        usage = record.usage
        if (
            usage.details is not None
            or record.parent is not None
            or record.corrects is not None
            or record.entry != "call"
        ):
            rare.append(record)
            continue
        values += (
            record.call_id,
            record.started_ns,
            record.endpoint,
            record.organization_id,
            record.team_id,
            record.user_id,
            record.key_id,
            record.model,
            record.served_model,
            record.deployment,
            record.zone,
            record.stream,
            record.status,
            record.http_status,
            record.error_code,
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_input_tokens,
            usage.reasoning_tokens,
            usage.source,
            record.cost,
            record.charge,
            record.currency,
            record.duration_us,
            record.first_content_us,
            _encode(record.attempts).decode(),
            usage.method,
            record.cost_center,
        )
    return values


def all_values(record: UsageRecord) -> list[Any]:
    """The values of all `COLUMNS`."""
    usage = record.usage
    values = {
        **{name: getattr(record, name, None) for name in COLUMNS},
        **{name: getattr(usage, name) for name in COLUMNS if name.endswith("_tokens")},
        "usage_source": usage.source,
        "usage_method": usage.method,
        "usage_details": None if usage.details is None else _encode(usage.details).decode(),
        "attempts": _encode(record.attempts).decode(),
    }
    return list(values.values())


def ledger_row(row: Row[Any]) -> LedgerRow:
    """The record in a row with all columns of the ledger."""
    values = row._asdict()
    cursor = values.pop("cursor")
    details = values.pop("usage_details")
    usage = Usage(
        values.pop("input_tokens"),
        values.pop("output_tokens"),
        values.pop("cached_input_tokens"),
        values.pop("reasoning_tokens"),
        values.pop("usage_source"),
        values.pop("usage_method"),
        None if details is None else _decode_details(details),
    )
    attempts = _decode_attempts(values.pop("attempts"))
    return LedgerRow(cursor, UsageRecord(**values, usage=usage, attempts=attempts))


def cut(record: UsageRecord) -> UsageRecord:
    """`record` with every figure that fits, whatever was reported."""
    return msgspec.structs.replace(
        record,
        usage=_cut_usage(record.usage),
        cost=_bounded(record.cost),
        charge=_bounded(record.charge),
        attempts=tuple(
            msgspec.structs.replace(
                attempt,
                cost=_bounded(attempt.cost),
                charge=_bounded(attempt.charge),
                usage=None if attempt.usage is None else _cut_usage(attempt.usage),
            )
            for attempt in record.attempts
        ),
    )


def _cut_usage(usage: Usage) -> Usage:
    return Usage(
        _bounded(usage.input_tokens),
        _bounded(usage.output_tokens),
        _bounded(usage.cached_input_tokens),
        _bounded(usage.reasoning_tokens),
        usage.source,
        usage.method,
        None
        if usage.details is None
        else UsageDetails(*map(_bounded, msgspec.structs.astuple(usage.details))),
    )


def _bounded(value: int) -> int:
    return max(-_ABSURD, min(_ABSURD, value))
