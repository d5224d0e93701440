"""The journal of one process: every admitted call is on it before its reply ends.

An append is one `pwrite` into a preallocated file, or where that is as safe a copy into memory that
is shared with the file; so what was appended survives the death of the process (with
`fsync: always` that of the machine). What cannot be written is queued in memory, nothing else is
admitted meanwhile (`healthy`), and `retry` writes it down. Not thread-safe: everything but
`prepare` belongs to the event loop's thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting import framing, segments

if TYPE_CHECKING:
    from mmap import mmap
    from pathlib import Path

    from llmgw_core.accounting.directory import Directory
    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord

log = logging.getLogger(__name__)


class Extent(NamedTuple):
    """A segment of the journal and how far it is written. A closed one grows no more."""

    path: Path
    end: int
    closed: bool


class Recent(NamedTuple):
    """What lies in the open segment from `start` to its end, as it was before it was written."""

    start: int
    records: list[UsageRecord]


class Journal:
    """Appends records to segments in a directory of its own below `root`.

    Raises `OSError` if that directory cannot be made. `segment_bytes` is what is allocated at
    once; `fsync="always"` waits for the disk on every append.
    """

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes: int = 16 * 1024 * 1024,
        fsync: Literal["os", "always"] = "os",
    ) -> None:
        self.root = root
        self.healthy = True
        """False: the last write failed; admit nothing until it is true again."""
        self.failure = ""
        """Why it is not healthy, in the operating system's words."""
        self.moved_to: tuple[Path, int] | None = None
        """Set by the mover: where it has come to with nothing left before."""
        self._segment_bytes = segment_bytes
        self._sync = fsync == "always"
        self._queue: deque[bytes] = deque()
        self._deliveries: list[bytes] = []
        self._recent: list[UsageRecord] = []
        self._recent_start = 0
        self._closed: dict[Path, int] = {}
        self._spare = -1
        self._number = 0
        self._fd = -1
        self._map: mmap | None = None
        self._offset = self._size = 0
        self.directory: Directory = directories.create(root)
        self._path = self.directory.path
        try:
            self._open(0)
        except OSError:
            self.directory.remove()
            raise

    def append_usage(self, record: UsageRecord) -> None:
        """Put `record` on the books. Never fails: what cannot be written now is queued."""
        data = framing.frame_usage(record)
        alone: UsageRecord | None = record
        if self._deliveries:
            data = b"".join((data, *self._deliveries))
            alone = None
            self._deliveries.clear()
        if not self.healthy:
            self._queue.append(data)
            return
        try:
            self._write(data, alone)
        except OSError as error:
            self._fail(data, error)

    def append_delivery(self, record: DeliveryRecord) -> None:
        """Note a fact of delivery; it is written with the next record or `flush`."""
        self._deliveries.append(framing.frame_delivery(record))

    def flush(self) -> None:
        """Write down the facts of delivery that wait for company."""
        if self._deliveries and self.healthy:
            data = b"".join(self._deliveries)
            self._deliveries.clear()
            try:
                self._write(data)
            except OSError as error:
                self._fail(data, error)

    def check(self) -> bool:
        """Notice what appending does not: that the file was deleted or cut under the open
        descriptor, or that the disk takes no more, which memory never says. What is in the open
        segment is queued again. Returns `healthy`."""
        if self.healthy:
            try:
                self._look_at_file()
            except OSError as error:
                data = self._written()
                self._offset = 0
                self._fail(data, error)
        return self.healthy

    def retry(self) -> bool:
        """Try to write what is queued, into a new segment. Returns `healthy`."""
        if self.healthy:
            return True
        try:
            if not self.directory.present():
                self._move_house()
            self._open(len(self._queue[0]) if self._queue else 0)
            while self._queue:
                self._write(self._queue[0])
                self._queue.popleft()
        except OSError as error:
            self.failure = str(error)
            return False
        self.healthy = True
        self.failure = ""
        log.warning("the journal can be written again")
        return True

    def extents(self) -> list[Extent]:
        """The segments that hold records, in the order of writing."""
        return [
            *(Extent(path, end, True) for path, end in self._closed.items()),
            Extent(self._path, self._offset, False),
        ]

    def take_recent(self) -> Recent:
        """What was written since this was called last, so that it need not be read back. That is
        no more than a segment holds, and nothing from before anything unusual."""
        recent = Recent(self._recent_start, self._recent)
        self._start_recent()
        return recent

    def forget(self, path: Path) -> None:
        """The closed segment `path` has been moved and deleted."""
        self._closed.pop(path, None)

    def queued(self) -> list[bytes]:
        """What could not be written so far: each item is one or more frames."""
        return list(self._queue)

    def drop(self, items: list[bytes]) -> None:
        """These `items` of `queued()` reached the ledger by another way."""
        for item in items:
            if self._queue and self._queue[0] is item:
                self._queue.popleft()

    @property
    def wants_spare(self) -> bool:
        """Whether it is time to `prepare` the next segment."""
        return self.healthy and self._spare < 0 and self._offset * 2 > self._size

    def prepare(self) -> None:
        """Allocate the next segment ahead of need; may run in another thread. A failure is none
        yet: the rotation will try again."""
        path = self.directory.path / directories.SPARE_NAME
        try:
            path.unlink(missing_ok=True)
            self._spare = segments.create(path, self._segment_bytes)
        except OSError as error:
            log.warning("no segment could be allocated ahead: %s", error)

    def close(self) -> None:
        """Write what waits and let go of the directory, which is deleted if the mover was done
        with it. May be called again."""
        if self._fd < 0:
            return
        self.flush()
        if not self.retry():
            log.error(
                "%d records are lost: %s", len(self._queue) + len(self._deliveries), self.failure
            )
        done = self.moved_to == (self._path, self._offset) and not self._closed
        self._close_file()
        self._fd = -1
        self.healthy = False  # nothing may be admitted any more
        self._drop_spare()
        if done:
            self._path.unlink(missing_ok=True)
            self.directory.remove()
        self.directory.close()

    def _start_recent(self) -> None:
        self._recent = []
        self._recent_start = self._offset

    def _write(self, data: bytes, record: UsageRecord | None = None) -> None:
        """`record` is all that there is in `data`, if it is given."""
        end = self._offset + len(data)
        if end > self._size:
            self._open(len(data))
            end = len(data)
        if self._map is not None:
            self._map[self._offset : end] = data
        elif os.pwrite(self._fd, data, self._offset) != len(data):
            raise OSError(errno.ENOSPC, "only a part of the record could be written")
        if self._sync:
            os.fdatasync(self._fd)
        self._offset = end
        if record is not None:
            self._recent.append(record)
        else:
            self._start_recent()

    def _look_at_file(self) -> None:
        """Raises `OSError` if it is not there, or not to be written."""
        found = os.fstat(self._fd)
        if not (self.directory.present() and found.st_nlink):
            raise FileNotFoundError(errno.ENOENT, "the journal was deleted")
        if found.st_size < self._size:
            raise OSError(errno.EIO, "the journal was cut")
        if self._map is not None:
            os.pwrite(self._fd, os.pread(self._fd, 1, 0), 0)

    def _written(self) -> bytes:
        """The intact frames of the open segment."""
        try:
            data = os.pread(self._fd, self._offset, 0)
        except OSError:
            return b""
        frames = framing.run_of_frames(data, len(data))
        return data[: frames[-1].end] if frames else b""

    def _fail(self, data: bytes, error: OSError) -> None:
        self.healthy = False
        self.failure = str(error)
        self._start_recent()
        if data:
            self._queue.append(data)
        log.error("the journal cannot be written: %s", error)

    def _open(self, minimum: int) -> None:
        """Go on in a new segment of at least `minimum` bytes."""
        path = self.directory.path / f"{self._number:08d}{segments.SUFFIX}"
        size = max(self._segment_bytes, minimum)
        fd = self._take_spare(path) if size == self._segment_bytes else -1
        if fd < 0:
            fd = segments.create(path, size)
        if self._sync:
            self.directory.sync()
        if self._fd >= 0:
            self._close_file()
            self._retire()
        self._number += 1
        # With `fsync` there is a system call anyway, which can say what has failed.
        self._map = None if self._sync else segments.mapped(fd, size)
        self._fd, self._path, self._offset, self._size = fd, path, 0, size
        self._start_recent()

    def _close_file(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        os.close(self._fd)

    def _retire(self) -> None:
        if self._offset:
            self._closed[self._path] = self._offset
        else:
            self._path.unlink(missing_ok=True)

    def _take_spare(self, path: Path) -> int:
        if self._spare < 0:
            return -1
        try:
            (self.directory.path / directories.SPARE_NAME).rename(path)
        except OSError:
            self._drop_spare()
            return -1
        fd, self._spare = self._spare, -1
        return fd

    def _drop_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1
            with contextlib.suppress(OSError):
                (self.directory.path / directories.SPARE_NAME).unlink(missing_ok=True)

    def _move_house(self) -> None:
        """The directory is gone: go on in a new one."""
        new = directories.create(self.root)
        self.directory.close()
        self.directory = new
        self._drop_spare()
