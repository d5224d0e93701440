from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.journal import Journal
from llmgw_core.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from llmgw_core.store.engine import Store


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Only root may mount a file system. Everybody is root in a namespace of their own: for others
    a test that mounts one is run again in there, and what it ends with counts."""
    if "small_disk" not in pyfuncitem.fixturenames or os.geteuid() == 0:
        return None
    elsewhere = ["unshare", "--map-root-user", "--mount"]
    test = f"{pyfuncitem.path}::{pyfuncitem.name}"
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        f"{pyfuncitem.funcargs['tmp_path']}/in",
    ]
    again = subprocess.run(
        [*elsewhere, sys.executable, "-m", "pytest", *options, test],
        cwd=pyfuncitem.config.rootpath,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stdout
    return True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def open_journal(root: Path) -> Iterator[Callable[..., Journal]]:
    """Journals below `root` with small segments; closed in the end."""
    opened: list[Journal] = []

    def make(segment_bytes: int = 3072, **options: object) -> Journal:
        opened.append(Journal(root, segment_bytes=segment_bytes, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for journal in opened:
        journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB; see `pytest_pyfunc_call` for who may have one."""
    point = tmp_path / "disk"
    point.mkdir()
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(point)], check=True)
    yield point
    if os.geteuid() == 0:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)
