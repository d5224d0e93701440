from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

from llmgw_core.store.ledger import Ledger
from llmgw_core.store.ledger_queries import CallFilter
from llmgw_core.testing.usage_records import call_ids, stored_ids, usage_record

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store

WRITER = """
import asyncio, sys
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.usage_records import usage_record

async def main():
    store = Store(sys.argv[1])
    await store.open()
    base = int(sys.argv[2])
    for start in range(base, base + 600, 20):
        await Ledger(store).insert([usage_record(n) for n in range(start, start + 20)], [])
    await store.aclose()

asyncio.run(main())
"""


async def test_a_cursor_misses_nothing_while_several_processes_write(
    url: str, store: Store
) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, str(base)]) for base in (0, 1000, 2000)
    ]
    ledger, seen, cursor = Ledger(store), list[str](), 0
    async with asyncio.timeout(60):
        while True:
            done = all(writer.poll() is not None for writer in writers)
            while page := await ledger.rows(cursor, limit=7):
                seen += [row.record.call_id for row in page]
                cursor = page[-1].cursor
            if done:
                break
            await asyncio.sleep(0)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen == await stored_ids(ledger)
    assert len(set(seen)) == len(seen) == 1800


async def test_an_export_goes_page_by_page_and_can_go_on(store: Store) -> None:
    ledger = Ledger(store)
    await ledger.insert([usage_record(n) for n in range(25)], [])
    first = []
    async for row in ledger.export(page=4):
        first.append(row)
        if len(first) == 10:
            break
    rest = [row async for row in ledger.export(first[-1].cursor, page=4)]
    assert [row.record.call_id for row in first + rest] == call_ids(range(25))


async def test_an_export_ends_with_what_was_there_when_it_began(store: Store) -> None:
    ledger = Ledger(store)
    await ledger.insert([usage_record(n) for n in range(10)], [])
    found = []
    async for row in ledger.export(page=4):
        found.append(row.record.call_id)
        await ledger.insert([usage_record(100 + len(found))], [])
    assert found == call_ids(range(10))


async def test_an_export_has_only_what_is_wanted(store: Store) -> None:
    ledger = Ledger(store)
    records = [usage_record(n, team_id=f"team-{n % 3}") for n in range(20)]
    await ledger.insert(records, [])
    found = [row async for row in ledger.export(wanted=CallFilter(team_id="team-1"), page=2)]
    assert [row.record for row in found] == [r for r in records if r.team_id == "team-1"]
    assert [row async for row in Ledger(store).export(10**6)] == []
