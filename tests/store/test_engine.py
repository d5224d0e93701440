from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.store import engine
from llmgw_core.store.engine import Store
from llmgw_core.store.principals import StorePrincipals


async def scalar(store: Store, statement: str) -> object:
    async with store.connect() as connection:
        return (await connection.execute(text(statement))).scalar()


async def test_a_new_database_is_for_its_owner_alone(store: Store, tmp_path: Path) -> None:
    async with store.begin() as connection:
        await connection.execute(text("UPDATE tenancy_version SET version = 7"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["llmgw.db"] == 0o600
    assert set(modes.values()) == {0o600}


async def test_readers_do_not_wait_for_a_writer_and_see_one_state(store: Store) -> None:
    async with store.begin() as writing:
        await writing.execute(text("UPDATE tenancy_version SET version = 100"))
        assert await scalar(store, "SELECT version FROM tenancy_version") == 1
    async with store.connect() as reading:
        first = (await reading.execute(text("SELECT version FROM tenancy_version"))).scalar()
        async with store.begin() as writing:
            await writing.execute(text("UPDATE tenancy_version SET version = 101"))
        again = (await reading.execute(text("SELECT version FROM tenancy_version"))).scalar()
        assert first == again == 100
    assert await scalar(store, "SELECT version FROM tenancy_version") == 101


async def test_the_pragmas_hold_on_every_connection(store: Store) -> None:
    async with store.connect() as one, store.connect() as other:
        for connection in (one, other):
            values = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
            assert values == ["wal", 1, 1, 5000]


async def test_whoever_comes_one_after_the_other_has_the_same_connection(store: Store) -> None:
    async with store.connect(), store.connect(), store.connect():
        pass
    used = set()
    for _ in range(4):
        async with store.begin() as connection:
            used.add(id((await connection.get_raw_connection()).driver_connection))
    assert len(used) == 1


async def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    async def fail() -> None:
        async with store.begin() as connection:
            await connection.execute(text("UPDATE tenancy_version SET version = 9"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await scalar(store, "SELECT version FROM tenancy_version") == 1


async def test_writers_that_read_first_queue_up_instead_of_failing(url: str, store: Store) -> None:
    other = Store(url)
    await other.open()

    async def increment(which: Store) -> None:
        async with which.begin() as connection:
            found = await connection.execute(text("SELECT version FROM tenancy_version"))
            values = {"v": found.scalar_one() + 1}
            await connection.execute(text("UPDATE tenancy_version SET version = :v"), values)

    await asyncio.gather(*(increment(which) for which in (store, other) for _ in range(10)))
    assert await scalar(store, "SELECT version FROM tenancy_version") == 21
    await other.aclose()


async def test_a_writer_that_waits_too_long_finds_the_store_unavailable(
    url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.01)
    other = Store(url)
    await other.open()
    async with store.begin():
        with pytest.raises(StoreUnavailable, match="locked"):
            async with other.begin():
                pass
    await other.aclose()


async def test_failures_of_the_database_are_one_exception(store: Store) -> None:
    with pytest.raises(StoreUnavailable):
        await scalar(store, "SELECT nonsense FROM nowhere")


async def test_violated_constraints_keep_their_own_exception(store: Store) -> None:
    with pytest.raises(IntegrityError):
        async with store.begin() as connection:
            await connection.execute(text("INSERT INTO tenancy_version VALUES (2, 1)"))


async def test_a_store_that_is_not_open_is_unavailable(url: str) -> None:
    store = Store(url)
    with pytest.raises(StoreUnavailable):
        store.engine  # noqa: B018 - the property raises
    await store.open()
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreUnavailable):
        await StorePrincipals(store).version()
    with pytest.raises(StoreUnavailable):
        async with store.begin():
            pass


@pytest.mark.parametrize("steps", range(12))
def test_an_opening_that_is_interrupted_leaves_no_thread_behind(tmp_path: Path, steps: int) -> None:
    async def interrupted() -> None:
        opening = asyncio.create_task(Store(f"sqlite:///{tmp_path / 'x.db'}").open())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening

    before = set(threading.enumerate())
    asyncio.run(interrupted())
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # one that fails makes this test fail: warnings are errors


async def test_a_relative_file_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("sqlite:///here.db")
    await store.open()
    await store.aclose()
    assert (tmp_path / "here.db").exists()


@pytest.mark.parametrize("name", ["50% of?it#.db", "with space.db"])
async def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    store = Store(f"sqlite:///{tmp_path / name}")
    await store.open()
    await store.aclose()
    assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(
    "url",
    ["", "sqlite://", "sqlite:///", "sqlite:///:memory:", "postgresql://me:secret@host/db", "x.db"],
)
def test_other_urls_are_refused_without_showing_passwords(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///FILE") as refused:
        Store(url)
    assert "secret" not in str(refused.value)
    assert refused.value.path == "store.url"


async def refusal(file: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        await Store(f"sqlite:///{file}").open()
    assert refused.value.path == "store.url"
    return refused.value.message


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    message = await refusal(tmp_path / "absent" / "llmgw.db")
    assert "absent/llmgw.db" in message
    assert "directory must exist" in message


async def test_a_read_only_directory_is_named() -> None:
    assert "must exist and be writable" in await refusal(Path("/proc/llmgw.db"))


async def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be opened" in await refusal(tmp_path)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"dear diary, " * 500)
    assert "is not an SQLite database" in await refusal(file)
    assert file.read_bytes() == b"dear diary, " * 500


async def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE photos (id INTEGER)")
    connection.close()
    assert "belongs to something else" in await refusal(file)
    connection = sqlite3.connect(file)
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("photos",)]


async def test_a_locked_database_is_unavailable_not_misconfigured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.01)
    file = tmp_path / "busy.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable):
        await Store(f"sqlite:///{file}").open()
    connection.close()


async def test_a_writer_cancelled_at_any_point_leaves_the_store_usable(store: Store) -> None:
    async def increment() -> None:
        async with store.begin() as connection:
            await connection.execute(text("UPDATE tenancy_version SET version = version + 1"))

    for turns in range(40):
        task = asyncio.create_task(increment())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    before = await scalar(store, "SELECT version FROM tenancy_version")
    await increment()
    assert isinstance(before, int)
    assert await scalar(store, "SELECT version FROM tenancy_version") == before + 1
