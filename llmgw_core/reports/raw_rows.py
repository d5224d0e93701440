"""The rows of the ledger for others: for a billing system that reads along, or as a file.

Every row has a `cursor`, which grows in the order of commits. Whoever asks again with the cursor of
the last row that he has got misses nothing and gets nothing twice, corrections included: a call is
`entry` "call"; re-pricing adds a "reversal" and a "rebooking" of it, whose figures are to be added.
Amounts are nano-units (1e-9 of the currency), times nanoseconds since the epoch. Ids only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.domain.usage import Usage, UsageDetails, UsageRecord
from llmgw_core.store.ledger_queries import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from llmgw_core.store.ledger import Ledger
    from llmgw_core.store.ledger_queries import CallFilter
    from llmgw_core.store.row_values import LedgerRow

PAGE: Final = 1000
"""Rows that are in memory at once."""
_NESTED: Final = frozenset({"usage", "attempts"})
_PLAIN: Final = tuple(name for name in UsageRecord.__struct_fields__ if name not in _NESTED)
_TOKENS: Final = tuple(
    name for name in Usage.__struct_fields__ if name not in {"source", "method", "details"}
)
_DETAILS: Final = UsageDetails.__struct_fields__
_NO_DETAILS: Final = (0,) * len(_DETAILS)
COLUMNS: Final = (
    "cursor",
    *_PLAIN,
    *_TOKENS,
    "usage_source",
    "usage_method",
    *_DETAILS,
    "price",
    "attempts",
)
"""The titles of a file with rows; `price` is the id of the price sheet of the last attempt,
`attempts` how many there were."""
_encode = msgspec.json.Encoder().encode


async def pages(
    ledger: Ledger, after: int = 0, wanted: CallFilter = EVERYTHING, *, most: int = 0
) -> AsyncIterator[list[LedgerRow]]:
    """The rows behind the cursor `after`, page by page, until there is none; at most `most` of them
    if that is not 0. Raises `StoreUnavailable`."""
    left = most
    while True:
        limit = min(PAGE, left) if most else PAGE
        rows = await ledger.rows(after, limit, wanted) if limit else []
        if rows:
            yield rows
        if len(rows) < limit or not rows:
            return
        after = rows[-1].cursor
        left -= len(rows)


def values(row: LedgerRow) -> list[Any]:
    """What stands under `COLUMNS`."""
    record = row.record
    usage, last = record.usage, record.attempts[-1:]
    details = _NO_DETAILS if usage.details is None else msgspec.structs.astuple(usage.details)
    return [
        row.cursor,
        *(getattr(record, name) for name in _PLAIN),
        *(getattr(usage, name) for name in _TOKENS),
        usage.source,
        usage.method,
        *details,
        last[0].price if last else "",
        len(record.attempts),
    ]


def as_json_lines(rows: Sequence[LedgerRow]) -> bytes:
    """One JSON object in each line; the attempts are objects, too."""
    lines = []
    for row in rows:
        facts = dict(zip(COLUMNS, values(row), strict=True))
        facts["attempts"] = [_facts(attempt) for attempt in row.record.attempts]
        lines.append(_encode(facts))
    return b"".join(line + b"\n" for line in lines)


def _facts(attempt: Any) -> dict[str, Any]:
    facts = _named(attempt)
    usage = facts["usage"]
    if usage is not None:
        facts["usage"] = {**_named(usage), "details": usage.details and _named(usage.details)}
    return facts


def _named(value: Any) -> dict[str, Any]:
    """What is an array in the books, with names."""
    return {name: getattr(value, name) for name in value.__struct_fields__}
