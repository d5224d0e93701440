from __future__ import annotations

import importlib
import pkgutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

import llmgw_core.store
from llmgw_core.domain.errors import ConfigError
from llmgw_core.store import schema
from llmgw_core.store.engine import Store
from llmgw_core.store.metadata import metadata

ROOT = Path(__file__).parents[2]


def register_all_tables() -> None:
    for module in pkgutil.iter_modules(llmgw_core.store.__path__):
        if module.name.endswith("_tables"):
            importlib.import_module(f"llmgw_core.store.{module.name}")


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_the_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    register_all_tables()
    assert {"organizations", "api_keys", "audit"} <= set(metadata.tables)
    async with store.connect() as connection:
        assert await connection.run_sync(differences) == []


def described(connection: Connection) -> dict[str, Any]:
    inspector = inspect(connection)
    return {
        name: (
            sorted(str(c["name"]) for c in inspector.get_check_constraints(name)),
            sorted(
                (str(k["name"]), k["constrained_columns"], k["referred_columns"], k["options"])
                for k in inspector.get_foreign_keys(name)
            ),
            inspector.get_pk_constraint(name),
            sorted(str(c["name"]) for c in inspector.get_unique_constraints(name)),
            sorted(str(c["name"]) for c in inspector.get_indexes(name)),
        )
        for name in metadata.tables
    }


async def test_check_constraints_and_foreign_keys_are_the_same_too(store: Store) -> None:
    """What `compare_metadata` does not look at."""
    register_all_tables()

    async with store.connect() as connection:
        migrated = await connection.run_sync(described)
    engine = create_engine("sqlite://")
    with engine.connect() as direct:
        metadata.create_all(direct)
        assert described(direct) == migrated
    engine.dispose()


def test_the_highest_file_is_the_only_head_and_the_numbers_have_no_gaps() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    known = schema.revisions()
    assert script.get_heads() == [known[-1]]
    assert known == [f"{number:04}" for number in range(1, len(known) + 1)]
    assert sorted(step.revision for step in script.walk_revisions()) == known


async def test_every_migration_applies_to_what_the_one_before_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database made by any earlier version is brought to the head at the next start."""
    known = schema.revisions()
    for revision in known:
        file = tmp_path / f"{revision}.db"
        with monkeypatch.context() as patched:
            patched.setattr(schema, "revisions", lambda until=revision: known[: int(until)])
            await open_and_close(file)
        await open_and_close(file)
        assert version_of(file) == known[-1]


async def open_and_close(file: Path) -> None:
    store = Store(f"sqlite:///{file}")
    await store.open()
    await store.aclose()


def version_of(file: Path) -> str:
    connection = sqlite3.connect(file)
    try:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        connection.close()


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.db"
    await open_and_close(file)
    connection = sqlite3.connect(file)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="schema 9999, which this version of llmgw does not know"):
        await Store(f"sqlite:///{file}").open()


async def test_a_migration_that_was_cut_off_begins_anew(tmp_path: Path) -> None:
    """Everything is one transaction, so a half-made schema cannot stay; what can stay is an
    empty file, or a version table without a version."""
    file = tmp_path / "llmgw.db"
    connection = sqlite3.connect(file)
    connection.execute(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    )
    connection.commit()
    connection.close()
    await open_and_close(file)
    assert version_of(file) == schema.revisions()[-1]


OPEN_AND_TELL = """
import asyncio, sys
from llmgw_core.store.engine import Store

async def main():
    store = Store(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    async with store.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT count(*) FROM tenancy_version")
        assert rows.scalar() == 1
    await store.aclose()
    print("alembic" in sys.modules)

asyncio.run(main())
"""


def opener(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_TELL, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_processes_that_open_a_new_database_at_once_migrate_it_once(url: str) -> None:
    openers = [opener(url) for _ in range(4)]
    for process in openers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in openers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in openers]
    assert [process.returncode for process in openers] == [0] * 4
    assert answers.count("True\n") == 1


def test_alembic_is_imported_only_when_a_migration_is_due(url: str) -> None:
    answers = []
    for _ in range(2):
        process = opener(url)
        answers.append(process.communicate("go\n", timeout=60)[0])
    assert answers == ["ready\nTrue\n", "ready\nFalse\n"]
