"""What was used, added up: all that meters need to know of calls that lie in a journal.

While the store is down, a segment that is full gets a file beside it with the sums of its calls and
their ids, so that the next start need not read a backlog call by call. It is an aid: without it, or
if the ledger has any of its calls, the segment itself is read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from llmgw_core.accounting import framing, segments
from llmgw_core.domain.usage import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

QUARTER_NS: Final = 900 * 10**9
"""No time zone cuts a quarter of an hour."""
SUFFIX: Final = ".sums"
_BETWEEN: Final = b"\n"


class Used(NamedTuple):
    """What calls that began in one quarter of an hour (since the epoch) have used, by everything
    that a meter may be about. Absent ids are None; `charge` is in nano-units."""

    quarter: int
    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None
    model: str
    deployment: str
    calls: int
    input_tokens: int
    output_tokens: int
    charge: int


class Summary(msgspec.Struct, array_like=True):
    """Of one segment. `ids`: of its calls, one a line."""

    ids: bytes
    used: list[Used]

    def call_ids(self) -> list[str]:
        """The calls."""
        return self.ids.decode().split(_BETWEEN.decode()) if self.ids else []


_decode = msgspec.msgpack.Decoder(Summary).decode


def summed(records: Iterable[UsageRecord]) -> list[Used]:
    """The sums of `records`. What a failed attempt was paid for is under its own deployment."""
    sums: dict[tuple[int | str | None, ...], list[int]] = {}
    for record in records:
        key = (
            record.started_ns // QUARTER_NS,
            record.organization_id,
            record.team_id,
            record.user_id,
            record.key_id,
            record.model,
            record.deployment,
        )
        own = sums.get(key)
        if own is None:
            own = sums[key] = [0, 0, 0, 0]
        usage = record.usage
        own[0] += 1
        own[1] += usage.input_tokens
        own[2] += usage.output_tokens
        own[3] += record.charge
        for attempt in record.attempts:
            if attempt.usage is not None and attempt.deployment != record.deployment:
                other = sums.setdefault((*key[:-1], attempt.deployment), [0, 0, 0, 0])
                for each, sign in ((other, 1), (own, -1)):
                    each[1] += sign * attempt.usage.input_tokens
                    each[2] += sign * attempt.usage.output_tokens
                    each[3] += sign * attempt.charge
    return [Used(*key, *counts) for key, counts in sums.items()]  # type: ignore[arg-type]


def summarize(segment: Path, end: int) -> None:
    """Add up a segment that grows no more and is written up to `end`. One that is damaged is left
    alone. Raises `OSError`."""
    reading = _Reading(segment, end)
    used = summed(reading)
    if not reading.damaged:
        draft = segment.with_suffix(f"{SUFFIX}.new")
        summary = Summary(_BETWEEN.join(reading.ids), used)
        draft.write_bytes(framing.frame_of(msgspec.msgpack.encode(summary)))
        draft.replace(segment.with_suffix(SUFFIX))


class _Reading:
    """Goes through the calls of a segment; knows their ids then, and whether it is damaged."""

    def __init__(self, segment: Path, end: int) -> None:
        self.ids: list[bytes] = []
        self.damaged = False
        self._segment = segment
        self._end = end

    def __iter__(self) -> Iterator[UsageRecord]:
        offset = 0
        while offset < self._end and not self.damaged:
            batch = segments.read_batch(self._segment, offset, limit=self._end)
            for record in batch.records:
                if isinstance(record, UsageRecord):
                    self.ids.append(record.call_id.encode())
                    yield record
            offset, self.damaged = batch.offset, bool(batch.damage)


def summary_of(segment: Path) -> Summary | None:
    """What `summarize` has written; None if there is none that can be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        frame = framing.intact(segment.with_suffix(SUFFIX).read_bytes())
        return None if frame is None else _decode(frame.payload)
    return None


def has_summary(segment: Path) -> bool:
    """Whether there is one."""
    return segment.with_suffix(SUFFIX).exists()


def drop_summary(segment: Path) -> None:
    """The segment is no more, or some of it is in the ledger. Raises `OSError`."""
    segment.with_suffix(SUFFIX).unlink(missing_ok=True)
