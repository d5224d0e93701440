"""Once per installation: of all processes that share a plugin's data directory, one holds the lock
in it. The kernel drops the lock when that process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LOCK_FILE: Final = "once.lock"


class InstallationLock:
    """The lock in `directory`, which exists."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this process has it, through this object."""
        return self._fd >= 0

    def acquire(self) -> bool:
        """Take the lock if it is free; never waits. Raises `OSError`."""
        if self.held:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Give it up; may be called again."""
        if self.held:
            os.close(self._fd)
            self._fd = -1
