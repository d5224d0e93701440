"""One call as operators see it: the same in `calls show`, in `calls tail --json` and on the admin
pages. Times in milliseconds, amounts in 1e-9 of the currency, no content, internal ids.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.pipeline.overview import Refusal, RunningCall  # noqa: TC001 -- decoded at run time

if TYPE_CHECKING:
    from llmgw_core.domain.usage import AttemptRecord, UsageRecord

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class AttemptFacts(msgspec.Struct, frozen=True):
    """One attempt on one deployment; `reason` is what followed, and why."""

    deployment: str
    model: str
    outcome: str
    http_status: int
    duration_ms: float
    cost_nano: int
    charge_nano: int
    reason: str


class CallFacts(msgspec.Struct, frozen=True):
    """A call on the books; see `UsageRecord` for the meaning of its fields."""

    call_id: str
    at: str
    endpoint: str
    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None
    model: str
    served_model: str
    deployment: str
    zone: str
    stream: bool
    status: str
    http_status: int
    error_code: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    usage_source: str
    cost_nano: int
    charge_nano: int
    currency: str
    duration_ms: float
    first_content_ms: float | None
    attempts: tuple[AttemptFacts, ...]
    parent: str | None


class Told(msgspec.Struct, frozen=True):
    """What is known of one call: it has ended, it runs, or it was refused before it began. A
    limit that stopped a call in its course is told beside its end."""

    ended: CallFacts | None = None
    running: RunningCall | None = None
    refused: Refusal | None = None


def facts(record: UsageRecord) -> CallFacts:
    """What is shown of `record`."""
    usage = record.usage
    same = {
        name: getattr(record, name)
        for name in CallFacts.__struct_fields__
        if name in record.__struct_fields__ and name != "attempts"
    }
    return CallFacts(
        at=timestamp(record.started_ns),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_source=usage.source,
        cost_nano=record.cost,
        charge_nano=record.charge,
        duration_ms=record.duration_us / 1000,
        first_content_ms=record.first_content_us / 1000 if record.first_content_us else None,
        attempts=tuple(_attempt(each) for each in record.attempts),
        **same,
    )


def _attempt(record: AttemptRecord) -> AttemptFacts:
    return AttemptFacts(
        deployment=record.deployment,
        model=record.model,
        outcome=record.outcome,
        http_status=record.status,
        duration_ms=record.duration_us / 1000,
        cost_nano=record.cost,
        charge_nano=record.charge,
        reason=record.reason,
    )


def timestamp(nanoseconds: int) -> str:
    """UTC to the millisecond, as `2026-01-31 09:30:00.123Z`."""
    moment = _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
