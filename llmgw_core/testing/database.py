"""A new, empty database in a moment: the migrations run once per process, what they made is copied.

How a database comes from nothing, or from an older version, is tested where the store is.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from llmgw_core.store.engine import Store

_made: list[bytes] = []


async def provide_database(directory: Path) -> None:
    """Lay an empty database of this version at `directory`/llmgw.db, where a configuration that
    says nothing else has it; one that is there stays."""
    if not _made:
        with tempfile.TemporaryDirectory() as folder:
            first = Path(folder) / "llmgw.db"
            store = Store(f"sqlite:///{first}")
            await store.open()
            await store.aclose()
            _made.append(first.read_bytes())
    try:
        fd = os.open(directory / "llmgw.db", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    with os.fdopen(fd, "wb") as file:
        file.write(_made[0])
