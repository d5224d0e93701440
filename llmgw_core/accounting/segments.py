"""Segment files: created at full size, written by one process, read by the mover.

Reading never trusts: a frame counts only with its checksum. What is damaged is stepped over,
within the segment if the next frame can be found, else to its end, and is always reported.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from llmgw_core.accounting import framing
from llmgw_core.accounting.framing import HEADER_BYTES, Record, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX: Final = ".segment"

_SURE: Final = frozenset(("ext3", "ext4", "tmpfs"))
"""File systems that write to allocated space in place, always; others need space for every change,
if only because somebody has made a copy that shares it (xfs)."""

WINDOW_BYTES: Final = 256 * 1024
"""How much is read at once: a few hundred records."""

DamageKind = Literal["torn", "corrupt", "unreadable"]
"""`torn`: the end of the last write is missing, as a killed process leaves it; that record was
never acknowledged. `corrupt`: what was written is not what is there. `unreadable`: intact, but
of a newer version."""


class Damage(NamedTuple):
    """The bytes from `start` to `end` of a segment hold no record that could be read."""

    start: int
    end: int
    kind: DamageKind


class Batch(NamedTuple):
    """Some records of a segment, where each of them ends, where to go on, and whether that is
    the end."""

    records: list[Record]
    ends: list[int]
    offset: int
    finished: bool
    damage: list[Damage]


def create(path: Path, size: int) -> int:
    """Create and allocate a segment; the descriptor is for writing. Raises `OSError`, and then
    leaves no file behind."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _allocate(fd, size)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def mapped(fd: int, size: int) -> mmap.mmap | None:
    """A segment as memory: what is stored there is the system's as much as what was written, and
    no system call is needed. None where storing might fail, which nobody could be told: only on
    some file systems is allocated space sure to be there."""
    if sys.platform != "linux" or _file_system(os.fstat(fd).st_dev) not in _SURE:
        return None
    try:
        return mmap.mmap(fd, size)
    except (OSError, ValueError):
        return None


def _file_system(device: int) -> str:
    """The type of the file system on `device`, as the kernel calls it; "" if it cannot be told."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2] == number:
            return kind.split()[0]
    return ""


def _allocate(fd: int, size: int) -> None:
    if sys.platform == "linux":
        os.posix_fallocate(fd, 0, size)
    else:  # pragma: no cover
        os.ftruncate(fd, size)


def read(path: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Every record from `offset` on, with the offset of the next. Damage is stepped over; use
    `read_batch` to hear of it. Raises `OSError`."""
    finished = False
    while not finished:
        batch = read_batch(path, offset)
        yield from zip(batch.records, batch.ends, strict=True)
        offset, finished = batch.offset, batch.finished


def records(data: bytes) -> list[Record]:
    """The records in `data`, a sequence of intact frames. Raises `Unreadable`."""
    found: list[Record] = []
    position = 0
    while (frame := framing.intact(data, position)) is not None:
        found.append(framing.decode(frame.payload))
        position = frame.end
    return found


def read_batch(path: Path, offset: int, *, limit: int | None = None, maximum: int = 500) -> Batch:
    """Up to `maximum` records from `offset` on. `limit` is how far the writer has come, if that
    is known; without it the segment is taken as abandoned and ends at its zero tail.
    Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end = os.fstat(fd).st_size if limit is None else limit
        return _Reading(fd, end, maximum).run(offset)
    finally:
        os.close(fd)


class _Reading:
    def __init__(self, fd: int, limit: int, maximum: int) -> None:
        self._fd = fd
        self._limit = limit
        self._maximum = maximum
        self._records: list[Record] = []
        self._ends: list[int] = []
        self._damage: list[Damage] = []

    def run(self, offset: int) -> Batch:
        window = WINDOW_BYTES
        while len(self._records) < self._maximum:
            data = self._pread(offset, window)
            taken = self._take(data, offset)
            offset += taken
            if taken == 0:
                following = self._step(offset)
                if following is None:
                    return Batch(self._records, self._ends, self._limit, True, self._damage)
                offset, window = following
        return Batch(self._records, self._ends, offset, False, self._damage)

    def _pread(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd, max(0, min(count, self._limit - offset)), offset)

    def _take(self, data: bytes, offset: int) -> int:
        """Collect the intact frames at the beginning of `data`; returns how long they are."""
        position = 0
        records, ends, decode = self._records, self._ends, framing.decode
        for payload, end in framing.run_of_frames(data, self._maximum - len(records)):
            try:
                records.append(decode(payload))
                ends.append(offset + end)
            except Unreadable:
                self._damage.append(Damage(offset + position, offset + end, "unreadable"))
            position = end
        return position

    def _step(self, offset: int) -> tuple[int, int] | None:
        """There is no intact frame in the window at `offset`: where and with which window to go
        on, or None at the end."""
        head = framing.header(self._pread(offset, HEADER_BYTES))
        if head is None or head == (0, 0):
            if not self._only_zeros(offset):
                self._damage.append(Damage(offset, self._limit, "corrupt"))
            return None
        end = offset + HEADER_BYTES + head[0]
        if end > self._limit:
            self._damage.append(Damage(offset, self._limit, "corrupt"))
            return None
        size = end - offset
        if framing.intact(self._pread(offset, size)) is not None:
            return offset, max(WINDOW_BYTES, size)
        if self._frame_at(end):
            self._damage.append(Damage(offset, end, "corrupt"))
            return end, WINDOW_BYTES
        kind: DamageKind = "torn" if self._only_zeros(end) else "corrupt"
        self._damage.append(Damage(offset, self._limit, kind))
        return None

    def _frame_at(self, offset: int) -> bool:
        head = framing.header(self._pread(offset, HEADER_BYTES))
        if head is None:
            return False
        return framing.intact(self._pread(offset, HEADER_BYTES + head[0])) is not None

    def _only_zeros(self, offset: int) -> bool:
        zeros = bytes(WINDOW_BYTES)
        while data := self._pread(offset, WINDOW_BYTES):
            if data != zeros[: len(data)]:
                return False
            offset += len(data)
        return True
