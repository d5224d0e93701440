from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.journal import Journal
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def open_journal(root: Path) -> Iterator[Callable[..., Journal]]:
    """Journals below `root` with small segments; closed in the end."""
    opened: list[Journal] = []

    def make(segment_bytes: int = 4096, **options: object) -> Journal:
        opened.append(Journal(root, segment_bytes=segment_bytes, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for journal in opened:
        journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(point)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system takes the rights of root")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'llmgw.db'}")
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)
