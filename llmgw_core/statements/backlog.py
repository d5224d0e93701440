"""Which calls of a period lie in journals and not yet in the ledger: what a statement of that
period would miss. Reads the files as they are, beside gateways that run or have been killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting import segments
from llmgw_core.accounting.directory import Directory, Progress
from llmgw_core.accounting.notes import noted
from llmgw_core.accounting.refused import RefusedFile
from llmgw_core.domain.usage import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Backlog(NamedTuple):
    """A journal (the name of its directory) and the ids of calls in it that nobody has moved; or,
    with "", the calls that the ledger has refused."""

    journal: str
    calls: list[str]


def backlog(root: Path, start_ns: int, end_ns: int) -> list[Backlog]:
    """The journals below `root` that hold calls of the period. What has been moved a moment ago
    may be among them: the ledger knows. What the ledger has refused comes last, with what is from
    before the period: nobody has billed it. Raises `OSError`."""
    found = []
    for path in directories.others(root, None):
        calls = sorted({*_calls(path, start_ns, end_ns)})
        if calls:
            found.append(Backlog(path.name, calls))
    # After the journals: that is where it comes from.
    refused = [each for each in RefusedFile(root).read().records if each.started_ns < end_ns]
    if refused:
        found.append(Backlog("", sorted(each.call_id for each in refused)))
    return found


def _calls(path: Path, start_ns: int, end_ns: int) -> Iterator[str]:
    # Without its lock: nothing is written here.
    directory = Directory(path, -1)
    try:
        progress = directory.load_progress()
        for segment in directory.segments():
            offset = progress.get(segment.name, Progress()).offset
            for record, _ in segments.read(segment, offset):
                if isinstance(record, UsageRecord) and start_ns <= record.started_ns < end_ns:
                    yield record.call_id
        for record in noted(path).values():
            if start_ns <= record.started_ns < end_ns:
                yield record.call_id
    except FileNotFoundError:
        # It has been moved while this was reading.
        return
