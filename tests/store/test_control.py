"""What the command line has put into the store reaches a running gateway."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import pytest
from sqlalchemy import text

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.store.control import ControlWatch
from llmgw_core.testing.reloads import settled

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.engine import Store

NEVER = 3600.0


class Notes(NamedTuple):
    """A table that another process writes, and what a watch has made of it."""

    file: Path
    store: Store
    seen: list[tuple[str, ...]]
    applied: asyncio.Event

    def write(self, *words: str) -> None:
        connection = sqlite3.connect(self.file)
        connection.execute("DELETE FROM notes")
        connection.executemany("INSERT INTO notes VALUES (?)", [(word,) for word in words])
        connection.commit()
        connection.close()

    async def read(self, connection: AsyncConnection) -> tuple[str, ...]:
        rows = await connection.execute(text("SELECT word FROM notes ORDER BY word"))
        return tuple(str(row[0]) for row in rows)

    def apply(self, words: tuple[str, ...]) -> None:
        self.seen.append(words)
        self.applied.set()


@pytest.fixture
async def notes(store: Store, tmp_path: Path) -> Notes:
    found = Notes(tmp_path / "llmgw.db", store, [], asyncio.Event())
    async with store.begin() as connection:
        await connection.execute(text("CREATE TABLE notes (word TEXT)"))
    return found


def watching(notes: Notes, staleness: float = NEVER) -> ControlWatch:
    watch = ControlWatch(notes.store, staleness=staleness)
    watch.add(notes.read, notes.apply)
    return watch


async def test_a_refresh_applies_what_is_new_and_nothing_else(notes: Notes) -> None:
    watch = watching(notes)
    await watch.refresh()
    await watch.refresh()
    notes.write("a", "b")
    await asyncio.gather(watch.refresh(), watch.refresh())
    assert notes.seen == [(), ("a", "b")]


async def test_everything_is_of_one_moment_of_the_store(notes: Notes) -> None:
    later: list[tuple[str, ...]] = []

    async def read_later(connection: AsyncConnection) -> tuple[str, ...]:
        await asyncio.to_thread(notes.write, "b")
        return await notes.read(connection)

    watch = watching(notes)
    watch.add(read_later, later.append)
    notes.write("a")
    await watch.refresh()
    assert (notes.seen, later) == ([("a",)], [("a",)])


async def test_another_process_is_noticed_within_the_bound(notes: Notes) -> None:
    watch = watching(notes, staleness=0.01)
    watch.start()
    watch.start()
    await notes.applied.wait()
    notes.applied.clear()
    notes.write("a")
    await notes.applied.wait()
    await watch.aclose()
    await watch.aclose()
    assert notes.seen == [(), ("a",)]


async def test_another_bound_holds_at_once(notes: Notes) -> None:
    watch = watching(notes)
    watch.start()
    await asyncio.sleep(0)
    watch.configure(staleness=NEVER)
    watch.configure(staleness=0.01)
    await notes.applied.wait()
    notes.applied.clear()
    notes.write("a")
    await notes.applied.wait()
    await watch.aclose()


async def test_a_store_that_is_down_leaves_what_holds_and_is_told_of_once(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llmgw.control")
    notes.write("a")
    watch = watching(notes)
    await watch.refresh()
    await notes.store.aclose()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await watch.refresh()
    up = [watch.store_up]
    assert notes.seen == [("a",)]
    await notes.store.open()
    notes.write("b")
    await watch.refresh()
    assert [*up, watch.store_up] == [False, True]
    assert notes.seen == [("a",), ("b",)]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_it_goes_on_reading_while_the_store_is_down(notes: Notes) -> None:
    await notes.store.aclose()
    watch = watching(notes, staleness=0.01)
    watch.start()
    await settled(lambda: not watch.store_up)
    await notes.store.open()
    await notes.applied.wait()
    await watch.aclose()
    assert notes.seen == [()]


async def test_a_row_that_makes_no_sense_does_not_end_the_reading(
    notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    watch = ControlWatch(notes.store, staleness=NEVER)
    words: list[int] = []

    async def read(connection: AsyncConnection) -> int:
        return sum(int(word) for word in await notes.read(connection))

    watch.add(read, words.append)
    notes.write("by hand")
    with pytest.raises(StoreUnavailable):
        await watch.refresh()
    assert "a row in the store makes no sense" in caplog.text
    notes.write("7")
    await watch.refresh()
    assert (words, watch.store_up) == ([7], True)
