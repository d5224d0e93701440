"""What a line says: a pure function of the usage record. Internal ids only, money as integers."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.usage import AttemptRecord, UsageRecord

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_encode = msgspec.json.Encoder().encode


class Attempt(msgspec.Struct, frozen=True):
    """One attempt on one deployment; `*_nano` in 1e-9 of the line's currency. `reason`: what
    followed a failure, and why."""

    deployment: str
    model: str
    outcome: str
    http_status: int
    duration_ms: float
    cost_nano: int
    charge_nano: int
    reason: str | None


class Line(msgspec.Struct, frozen=True):
    """One call. `ts` is the moment it was received (UTC, microseconds); `*_ms` count from
    there, `first_content_ms` is null if there was no content; `*_nano` are in 1e-9 of
    `currency`. `parent` is the call in the course of which a plugin made this one."""

    ts: str
    call_id: str
    parent: str | None
    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None
    endpoint: str
    model: str
    served_model: str | None
    deployment: str | None
    zone: str | None
    stream: bool
    status: str
    http_status: int
    error_code: str | None
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
    attempts: tuple[Attempt, ...]


def encode_line(record: UsageRecord) -> bytes:
    """The line for `record`, its newline included. JSON escapes line breaks, so that no value
    can begin a line of its own."""
    usage = record.usage
    line = Line(
        ts=_timestamp(record.started_ns),
        call_id=record.call_id,
        parent=record.parent,
        organization_id=record.organization_id,
        team_id=record.team_id,
        user_id=record.user_id,
        key_id=record.key_id,
        endpoint=record.endpoint,
        model=record.model,
        served_model=record.served_model or None,
        deployment=record.deployment or None,
        zone=record.zone or None,
        stream=record.stream,
        status=record.status,
        http_status=record.http_status,
        error_code=record.error_code or None,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        usage_source=usage.source,
        cost_nano=record.cost,
        charge_nano=record.charge,
        currency=record.currency,
        duration_ms=record.duration_us / 1000,
        first_content_ms=record.first_content_us / 1000 if record.first_content_us else None,
        attempts=tuple(_attempt(each) for each in record.attempts),
    )
    return _encode(line) + b"\n"


def _attempt(record: AttemptRecord) -> Attempt:
    return Attempt(
        deployment=record.deployment,
        model=record.model,
        outcome=record.outcome,
        http_status=record.status,
        duration_ms=record.duration_us / 1000,
        cost_nano=record.cost,
        charge_nano=record.charge,
        reason=record.reason or None,
    )


def _timestamp(nanoseconds: int) -> str:
    moment = _EPOCH + dt.timedelta(microseconds=nanoseconds // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
