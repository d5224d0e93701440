"""Notes of what is under way, for a process that is killed: what each call would be on the books
as, had it ended when the note was taken.

They lie in two files in the journal's directory, in frames as the journal's. One is appended to;
when it is full, the other one begins with everything that is still under way, and then the first is
void. Whoever adopts the directory moves the journal first: a call that is on the books is on the
books, whatever was noted of it. Never synced: a note is for the death of the process, and an aid.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from llmgw_core.accounting import framing, segments
from llmgw_core.accounting.directory import NOTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from mmap import mmap
    from pathlib import Path

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.domain.usage import UsageRecord

log = logging.getLogger(__name__)

FILE_BYTES: Final = 1024 * 1024
_END: Final = bytes(framing.HEADER_BYTES)


class Notes:
    """Writes them beside `journal`. Files are made with the first note."""

    def __init__(self, journal: Journal, *, size: int = FILE_BYTES) -> None:
        self._journal = journal
        self._least = size
        self._folder: Path | None = None
        self._files = [-1, -1]
        self._maps: list[mmap | None] = [None, None]
        self._sizes = [0, 0]
        self._current = 0
        self._offset = 0
        self._failing = False

    def append(self, records: Sequence[UsageRecord]) -> bool:
        """Note these. False: there is no room, or no file any more; then `begin_anew`."""
        fd = self._files[self._current]
        if fd < 0 or self._folder != self._journal.directory.path:
            return False
        data = framing.frame_notes(records)
        end = self._offset + len(data)
        if end + len(_END) > self._sizes[self._current]:
            return False
        try:
            self._write(self._current, data + _END, self._offset)
        except OSError as error:
            self._fail(error)
            return False
        self._offset = end
        return True

    def begin_anew(self, records: Sequence[UsageRecord]) -> bool:
        """Note `records`, and forget what was noted before. False: they cannot be written."""
        folder = self._journal.directory.path
        data = framing.frame_notes(records) if records else b""
        try:
            if self._folder != folder:
                self._close()
                self._folder = folder
            old, new = self._current, 1 - self._current
            self._provide(new, folder, len(data) + len(_END))
            self._provide(old, folder, len(_END))
            self._write(new, data + _END, 0)
            self._current, self._offset = new, len(data)
            self._write(old, _END, 0)
        except OSError as error:
            self._fail(error)
            return False
        if self._failing:
            self._failing = False
            log.warning("calls under way are noted again")
        return True

    def present(self) -> bool:
        """Whether what is noted can still be found: nobody has deleted the file."""
        fd = self._files[self._current]
        return fd >= 0 and os.fstat(fd).st_nlink > 0

    def close(self) -> None:
        """Nothing is under way any more. What is not on the books for all that (the journal cannot
        be written) stays noted. May be called again."""
        folder = self._folder
        self._close()
        if folder is not None and self._journal.healthy:
            for name in NOTES:
                (folder / name).unlink(missing_ok=True)

    def _provide(self, number: int, folder: Path, needed: int) -> None:
        """File `number` with room for `needed` bytes, and as many again. There are both from the
        beginning, so that a disk which is full later does not matter."""
        fd = self._files[number]
        if fd >= 0 and not os.fstat(fd).st_nlink:
            self._drop(number)
            fd = -1
        if fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            fd = self._files[number] = os.open(folder / NOTES[number], flags, 0o600)
            self._sizes[number] = 0
        size = max(self._least, 2 * needed)
        if self._sizes[number] < size:
            os.posix_fallocate(fd, 0, size)
            mapped, self._maps[number] = self._maps[number], segments.mapped(fd, size)
            self._sizes[number] = size
            if mapped is not None:
                mapped.close()

    def _write(self, number: int, data: bytes, offset: int) -> None:
        # As the journal: a system call only where memory that is shared with the file is not safe.
        mapped = self._maps[number]
        if mapped is not None:
            mapped[offset : offset + len(data)] = data
        else:
            os.pwrite(self._files[number], data, offset)

    def _fail(self, error: OSError) -> None:
        self._close()
        if not self._failing:
            self._failing = True
            log.error("calls under way cannot be noted: %s", error)

    def _close(self) -> None:
        for number in range(len(self._files)):
            self._drop(number)
        self._folder = None

    def _drop(self, number: int) -> None:
        mapped, self._maps[number] = self._maps[number], None
        if mapped is not None:
            mapped.close()
        fd, self._files[number] = self._files[number], -1
        if fd >= 0:
            os.close(fd)


def noted(folder: Path) -> dict[str, UsageRecord]:
    """What was under way in the process that had `folder`, and what has ended since its file was
    begun: by call, the last note of each. Raises `OSError`."""
    found: dict[str, UsageRecord] = {}
    for name in NOTES:
        try:
            data = (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        for record in _records(data, folder / name):
            known = found.get(record.call_id)
            if known is None or known.duration_us <= record.duration_us:
                found[record.call_id] = record
    return found


def _records(data: bytes, path: Path) -> Iterator[UsageRecord]:
    for payload, _ in framing.run_of_frames(data, len(data)):
        try:
            yield from framing.decode_notes(payload)
        except framing.Unreadable as error:
            log.error("%s: a note cannot be read: %s", path, error)  # noqa: TRY400 - expected
