"""One gateway per configuration: meters live in the memory of one process, so that two processes
on the same books would each grant the whole of every limit.

The lock is a `flock` on a file in the journal's root, which the kernel drops when the process
ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LOCK_FILE = "gateway.lock"


class SoleGateway:
    """The right to keep the books below `root`. Raises `ConfigError` when another gateway has it,
    in this process or another, and `OSError` when the file cannot be made."""

    def __init__(self, root: Path) -> None:
        self._fd = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            message = (
                f"another gateway keeps its books in {root}, and each of them would grant every"
                " limit in full. Stop it first, or give this one a store and a journal of its own."
            )
            raise ConfigError(message, path="accounting.journal") from None

    def close(self) -> None:
        """Give the right up."""
        os.close(self._fd)
