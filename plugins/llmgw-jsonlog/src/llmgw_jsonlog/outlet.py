"""Where lines go: a file that may be rotated away under us, or one of our standard streams.

A line is one `write`. What cannot be written is lost and counted; nothing here is fatal.
"""

from __future__ import annotations

import asyncio
import os
import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class Outlet(Protocol):
    """Takes whole lines."""

    async def write(self, line: bytes) -> None:
        """Write `line`. Raises OSError when it is lost, in whole or in part."""
        ...

    def close(self) -> None:
        """Let go of what is open. Idempotent."""
        ...


class _Descriptor:
    """Writes to a file descriptor, and keeps a line that was cut from spoiling the next."""

    def __init__(self) -> None:
        self._torn = False

    def put(self, descriptor: int, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        written = os.write(descriptor, line)
        self._torn = 0 < written < len(line) or (self._torn and written == 0)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written")


class FileOutlet:
    """Appends to `path`, created for its owner alone (0600). A file that was renamed or deleted
    is noticed before the next line and opened anew, so that log rotation needs no signal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._identity = (0, 0)
        self._writer = _Descriptor()

    async def write(self, line: bytes) -> None:
        """See the port. A write to a local file takes microseconds and is made in place."""
        if not self._is_current():
            self.close()
            self._open()
        self._writer.put(self._descriptor, line)

    def close(self) -> None:
        """See the port."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_current(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            found = os.stat(self._path)  # noqa: PTH116  once per line: Path.stat costs twice that
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        found = os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        self._writer = _Descriptor()


class StreamOutlet:
    """Writes to an open descriptor (standard output or error). If its reader is slow, waits
    without stopping the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writer = _Descriptor()
        self._turn = asyncio.Lock()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    async def write(self, line: bytes) -> None:
        """See the port."""
        async with self._turn:
            if not self._poll.poll(0):
                await self._writable()
            self._writer.put(self._descriptor, line)

    def close(self) -> None:
        """See the port. The stream is not ours to close."""

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._descriptor)
