"""Usage records for tests: complete and plausible, different in what the test is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.usage import AttemptRecord, Usage, UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.store.ledger import Ledger

STARTED_NS = 1_770_000_000 * 10**9
"""2026-02-02 02:40:00 UTC."""

_ATTEMPT = AttemptRecord("small/local", "small", "ok", 200, 11_000, 1_500, 2_500)


def usage_record(number: int = 0, **changes: Any) -> UsageRecord:
    """The record of call `number` (`call-NUMBER`), with `changes` to its fields."""
    record = UsageRecord(
        call_id=f"call-{number}",
        started_ns=STARTED_NS + number,
        endpoint="chat.completions",
        organization_id="org-1",
        team_id="team-1",
        user_id="user-1",
        key_id="key-1",
        model="small",
        served_model="small",
        deployment="small/local",
        zone="onprem",
        stream=False,
        status="completed",
        http_status=200,
        error_code="",
        usage=Usage(input_tokens=10, output_tokens=5, cached_input_tokens=2, reasoning_tokens=1),
        cost=1_500,
        charge=2_500,
        currency="USD",
        duration_us=12_000,
        first_content_us=3_000,
        attempts=(_ATTEMPT,),
    )
    return msgspec.structs.replace(record, **changes)


def call_ids(numbers: Iterable[int]) -> list[str]:
    """The ids of the calls `numbers`."""
    return [f"call-{number}" for number in numbers]


def append_calls(journal: Journal, numbers: Iterable[int]) -> None:
    """Put the records of the calls `numbers` into `journal`."""
    for number in numbers:
        journal.append_usage(usage_record(number))


async def stored_ids(ledger: Ledger) -> list[str]:
    """The ids of all calls on the books, in the order of commits."""
    return [row.record.call_id for row in await ledger.rows(limit=1_000_000)]
