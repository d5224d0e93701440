"""What lies in journals and may not be in the ledger, for whoever has to know before the first call
what was used. Nothing is changed, and damage is for the mover to report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting import segments
from llmgw_core.accounting.directory import Directory, Progress
from llmgw_core.accounting.notes import noted
from llmgw_core.accounting.summaries import summary_of
from llmgw_core.domain.usage import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llmgw_core.accounting.summaries import Summary

_AT_ONCE: Final = 3000
"""Records; the event loop waits for them to be read."""


class Summed(NamedTuple):
    """A whole segment, added up. Its sums hold if the ledger has none of its calls."""

    segment: Path
    summary: Summary


def orphaned(root: Path, own: Path | None) -> Iterator[list[UsageRecord] | Summed]:
    """What is in the journals below `root`, except `own`, of processes that have ended, and has not
    been moved as far as their checkpoints say; perhaps it has. So are calls that they had under
    way, which come last. Raises `OSError`."""
    orphans = directories.others(root, own)
    interrupted: dict[str, UsageRecord] = {}
    for path in orphans:
        interrupted.update(noted(path))
    for path in orphans:
        directory = Directory(path, -1)
        progress = directory.load_progress()
        for segment in directory.segments():
            offset = progress.get(segment.name, Progress()).offset
            summary = None if offset else summary_of(segment)
            if summary is not None:
                for id in interrupted.keys() & summary.call_ids():
                    del interrupted[id]
                yield Summed(segment, summary)
                continue
            for records in unread(segment, offset):
                for record in records:
                    interrupted.pop(record.call_id, None)
                yield records
    yield list(interrupted.values())


def unread(path: Path, offset: int, limit: int | None = None) -> Iterator[list[UsageRecord]]:
    """The calls of a segment from `offset` on, some at a time. Raises `OSError`."""
    while limit is None or offset < limit:
        batch = segments.read_batch(path, offset, limit=limit, maximum=_AT_ONCE)
        yield [record for record in batch.records if isinstance(record, UsageRecord)]
        offset = batch.offset
        if batch.finished:
            return
