"""The file of what the ledger has refused for good: beside damaged segments, framed as a segment,
written through to the disk. It waits there until somebody has looked at it.

A gateway adds to it while a command takes from it, so both hold its lock while they write.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from llmgw_core.accounting import framing, segments
from llmgw_core.accounting.directory import KEPT_NAME
from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.domain.usage import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from llmgw_core.accounting.port import LedgerPort
    from llmgw_core.accounting.segments import Damage

REFUSED_NAME: Final = "refused.segment"
_WHOLE: Final = 2**31


class Content(NamedTuple):
    """The calls in the file, each once, and the places that cannot be read."""

    records: list[UsageRecord]
    damage: list[Damage]


class RefusedFile:
    """The one of the journals below `root`. Every method raises `OSError`."""

    def __init__(self, root: Path) -> None:
        self.path = root / KEPT_NAME / REFUSED_NAME

    def present(self) -> bool:
        """Whether anything was refused that nobody has taken out."""
        return self.path.exists()

    def read(self) -> Content:
        """What is in it; nothing if there is none."""
        try:
            batch = segments.read_batch(self.path, 0, maximum=_WHOLE)
        except FileNotFoundError:
            return Content([], [])
        found = {each.call_id: each for each in batch.records if isinstance(each, UsageRecord)}
        return Content(list(found.values()), batch.damage)

    def add(self, record: UsageRecord) -> None:
        """Put `record` aside, whole or not at all."""
        data = framing.frame_usage(record)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked() as fd:
            end = os.fstat(fd).st_size
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(errno.ENOSPC, "only a part of the record could be written")
                os.fsync(fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, end)
                raise

    def drop(self, ids: Collection[str]) -> bool:
        """Take out the calls with these ids. False: a place cannot be read, and so the file stays
        as it is."""
        with self._locked():
            content = self.read()
            if content.damage:
                return False
            left = [each for each in content.records if each.call_id not in ids]
            if left:
                self._replace(b"".join(map(framing.frame_usage, left)))
            else:
                self.path.unlink(missing_ok=True)
        return True

    def _replace(self, data: bytes) -> None:
        draft = self.path.with_suffix(".new")
        with open(draft, "wb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, opened to append, which nobody else writes or replaces meanwhile."""
        while True:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(self.path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if self._is_at_its_place(fd):
                    yield fd
                    return
            finally:
                os.close(fd)

    def _is_at_its_place(self, fd: int) -> bool:
        try:
            return self.path.stat().st_ino == os.fstat(fd).st_ino
        except FileNotFoundError:
            return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


async def retry(file: RefusedFile, ledger: LedgerPort) -> tuple[int, dict[str, str]]:
    """Have `ledger` book what is in `file`; what is booked is taken out. Returns how many calls the
    ledger has now, and why it does not take the others, by id. Raises `OSError` and
    `StoreUnavailable`."""
    booked, refused = set[str](), dict[str, str]()
    for record in file.read().records:
        try:
            await ledger.insert([record], ())
            booked.add(record.call_id)
        except RecordsRefused as error:
            refused[record.call_id] = str(error)
    if booked:
        file.drop(booked)
    return len(booked), refused
