"""The store is away for an hour: calls go on, nothing is lost, nothing is doubled."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.mover import Mover, pause
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.store import engine
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.usage_records import append_calls, call_ids, stored_ids, usage_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal


async def totals(ledger: Ledger) -> tuple[int, int]:
    (total,) = await ledger.usage([])
    return total.calls, total.charge


async def check(ledger: Ledger, number: int) -> None:
    assert await stored_ids(ledger) == call_ids(range(number))
    assert await totals(ledger) == (number, number * usage_record().charge)


async def run_through(
    mover: Mover, journal: Journal, ledger: Ledger, away: Callable[[], None]
) -> int:
    """Calls before, during and after an hour's outage; returns how many there were."""
    append_calls(journal, range(50))
    await mover.move_once()
    away()
    passed, failures, number = 0.0, 0, 50
    while passed < 3600:
        append_calls(journal, range(number, number + 10))
        number += 10
        with pytest.raises(StoreUnavailable):
            await mover.move_once()
        assert journal.healthy
        failures += 1
        passed += pause(1.0, failures)
    assert failures > 100
    return number


async def test_a_database_that_another_process_holds(
    root: Path,
    open_journal: Callable[..., Journal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.001)
    store = Store(f"sqlite:///{tmp_path / 'held.db'}")
    await store.open()
    ledger, journal = Ledger(store), open_journal(segment_bytes=16_384)
    mover = Mover(root, journal, ledger)
    with closing(sqlite3.connect(tmp_path / "held.db", isolation_level=None)) as other:
        number = await run_through(
            mover, journal, ledger, lambda: other.execute("BEGIN EXCLUSIVE").close()
        )
        other.execute("ROLLBACK")
    await mover.move_once()
    await mover.move_once()
    await check(ledger, number)
    await store.aclose()


async def test_a_database_without_space(
    root: Path, open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'full.db'}")
    await store.open()
    ledger, journal = Ledger(store), open_journal(segment_bytes=16_384)
    mover = Mover(root, journal, ledger)

    async def pages(number: str) -> None:
        async with store.connect() as connection:
            await connection.exec_driver_sql(f"PRAGMA max_page_count={number}")

    append_calls(journal, range(50))
    await mover.move_once()
    await pages("1")  # as many as there are
    append_calls(journal, range(50, 5_000))
    with pytest.raises(StoreUnavailable, match="full"):
        await mover.move_once()
    append_calls(journal, range(5_000, 5_100))
    number = 5_100
    stored = await ledger.count()
    assert stored < number
    assert (await totals(ledger))[0] == stored
    await pages("1000000")
    await mover.move_once()
    await check(ledger, number)
    await store.aclose()


async def test_a_database_that_is_away(
    root: Path, open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    store = Store(f"sqlite:///{tmp_path / 'away.db'}")
    await store.open()
    ledger, journal = Ledger(store), open_journal(segment_bytes=16_384)
    mover = Mover(root, journal, ledger)
    append_calls(journal, range(50))
    await mover.move_once()
    await store.aclose()
    append_calls(journal, range(50, 80))
    with pytest.raises(StoreUnavailable):
        await mover.move_once()
    await store.open()
    await mover.move_once()
    await check(ledger, 80)
    await store.aclose()
