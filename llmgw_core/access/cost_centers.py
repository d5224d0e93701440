"""Which cost centre holds when, from the assignments of the levels above a caller: pure.

The nearest level that has a valid one at an instant decides for that instant: the key, else its
team, else the organisation.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from llmgw_core.domain.cost_center import CostSpan

if TYPE_CHECKING:
    from collections.abc import Sequence


def clipped(spans: Sequence[CostSpan], since_ns: int, until_ns: int) -> list[CostSpan]:
    """What of `spans` lies between two instants."""
    found = (
        CostSpan(max(span.since_ns, since_ns), min(span.until_ns, until_ns), span.id)
        for span in spans
    )
    return [span for span in found if span.since_ns < span.until_ns]


def merged(levels: Sequence[Sequence[CostSpan]]) -> tuple[CostSpan, ...]:
    """The calendar of a caller. `levels` go from the organisation downwards; the spans of one level
    do not overlap."""
    instants = {
        instant for level in levels for span in level for instant in (span.since_ns, span.until_ns)
    }
    result: list[CostSpan] = []
    for since, until in pairwise(sorted(instants)):
        id = _nearest(levels, since)
        if not id:
            continue
        if result and result[-1].id == id and result[-1].until_ns == since:
            result[-1] = CostSpan(result[-1].since_ns, until, id)
        else:
            result.append(CostSpan(since, until, id))
    return tuple(result)


def _nearest(levels: Sequence[Sequence[CostSpan]], at_ns: int) -> str:
    for level in reversed(levels):
        for span in level:
            if span.since_ns <= at_ns < span.until_ns:
                return span.id
    return ""
