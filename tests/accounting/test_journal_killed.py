from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.mover import Mover
from llmgw_core.testing.usage_records import stored_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.store.ledger import Ledger


@contextmanager
def appending(root: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    script = Path(__file__).with_name("appending_process.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(root), name],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("acknowledgements", [1, 40, 400])
async def test_what_a_killed_process_acknowledged_is_on_the_books(
    root: Path, ledger: Ledger, acknowledgements: int
) -> None:
    with appending(root, "a") as process:
        assert process.stdout is not None
        for _ in range(acknowledgements):
            process.stdout.readline()
        mover = Mover(root, None, ledger)
        assert await mover.move_once() == 0
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    acknowledged = int(rest[-1]) + 1 if rest else acknowledgements
    await mover.move_once()
    stored = await stored_ids(ledger)
    # The kill may have come between an append and its acknowledgement, never the other way.
    assert stored == [f"a-{number}" for number in range(len(stored))]
    assert len(stored) in {acknowledged, acknowledged + 1}
    assert list(root.iterdir()) == []
