"""The directory of one journal: owned by whoever holds the lock in it, for as long as it lives.

The lock is a `flock`, which the kernel drops when the process ends, however it ends. A
directory without a holder is an orphan: whoever gets its lock may adopt and remove it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import time
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.accounting.segments import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOCK_NAME: Final = "lock"
CHECKPOINT_NAME: Final = "checkpoint"
_DRAFT_NAME: Final = "checkpoint.new"
SPARE_NAME: Final = "spare"
NOTES: Final = ("notes.0", "notes.1")
"""Of calls that are under way."""
KEPT_NAME: Final = "damaged"
"""Beside the journals: the folder of segments that could not be read in full."""

_NAME: Final = re.compile(r"[0-9]+-[0-9]+-[0-9]+")
"""Of a journal: when it was made, by which process, and a number."""
_serial = itertools.count()


class Progress(msgspec.Struct, array_like=True):
    """How far one segment has been moved, and whether something in it was damaged."""

    offset: int = 0
    damaged: bool = False


_decode_progress = msgspec.msgpack.Decoder(dict[str, Progress]).decode


class Directory:
    """A locked journal directory. `close()` gives up the lock."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def close(self) -> None:
        """Give up the directory; may be called again."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete what is left in the directory, and itself; then give it up. Segments must have
        been moved before. Raises `OSError`."""
        for name in (SPARE_NAME, *NOTES, _DRAFT_NAME, CHECKPOINT_NAME, LOCK_NAME):
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.glob("*.sums*"):
            path.unlink(missing_ok=True)
        # Without its lock file anybody may lock the directory: the next one then removes it.
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self.close()

    def present(self) -> bool:
        """Whether the directory that is locked is still the one at its path."""
        try:
            return (self.path / LOCK_NAME).stat().st_ino == os.fstat(self._lock).st_ino
        except OSError:
            return False

    def sync(self) -> None:
        """Make the names in the directory, and its own, survive the machine.
        Raises `OSError`."""
        for path in (self.path, self.path.parent):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def segments(self) -> list[Path]:
        """The segments in the order of writing. Raises `OSError`."""
        return sorted(path for path in self.path.iterdir() if path.suffix == SUFFIX)

    def load_progress(self) -> dict[str, Progress]:
        """What is known to be moved, by segment name. A lost or damaged checkpoint costs a
        second reading, nothing else."""
        try:
            return _decode_progress((self.path / CHECKPOINT_NAME).read_bytes())
        except (OSError, msgspec.DecodeError):
            return {}

    def save_progress(self, progress: dict[str, Progress]) -> None:
        """Replace the checkpoint. Raises `OSError`."""
        draft = self.path / _DRAFT_NAME
        draft.write_bytes(msgspec.msgpack.encode(progress))
        draft.replace(self.path / CHECKPOINT_NAME)


def create(root: Path) -> Directory:
    """A new directory below `root` (which is created too), locked. Raises `OSError`."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        # The order of names is the order of making, also when the clock was put back.
        number = max(time.time_ns(), *(_number(path) + 1 for path in others(root, None)), 0)
        path = root / f"{number:019d}-{os.getpid()}-{next(_serial)}"
        path.mkdir(mode=0o700)
        directory = adopt(path)
        if directory is not None:
            return directory
        # An adopter took the lock of the empty directory in between and removes it.


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def adopt(path: Path) -> Directory | None:
    """Lock the directory `path`; None if somebody else holds it or it is gone.
    Raises `OSError`."""
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    directory = Directory(path, fd)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held the lock before may have removed the directory by now.
        if directory.present():
            return directory
    directory.close()
    return None


def adopt_all(
    root: Path,
    own: Path | None,
    stack: contextlib.ExitStack,
    failed: Callable[[Path, OSError], None],
) -> list[Directory]:
    """Lock whatever below `root` nobody else holds, except `own`, oldest first; `stack` gives it
    up, and `failed` hears of those that cannot be locked. Raises `OSError`."""
    adopted = []
    for path in others(root, own):
        try:
            directory = adopt(path)
        except OSError as error:
            failed(path, error)
            continue
        if directory is not None:
            stack.callback(directory.close)
            adopted.append(directory)
    return adopted


def others(root: Path, own: Path | None) -> list[Path]:
    """The journal directories below `root` except `own`, oldest first. What has another name is
    somebody else's, as `lost+found` is. Raises `OSError`."""
    try:
        return sorted(
            path
            for path in root.iterdir()
            if path != own and _NAME.fullmatch(path.name) and path.is_dir()
        )
    except FileNotFoundError:
        return []


def keep(segment: Path, root: Path) -> Path:
    """Put a damaged segment aside, out of the way of the mover; returns where it went.
    Raises `OSError`."""
    folder = root / KEPT_NAME
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{segment.parent.name}-{segment.name}"
    return segment.replace(target)
