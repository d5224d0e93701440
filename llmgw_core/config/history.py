"""What was loaded: the texts of configurations as they were written, never what references in
them stood for. Plain files in the journal's root, which a gateway can always write and which is
its own alone; readable by its user only, since a file may hold a secret as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from llmgw_core.config.load import ConfigFile
    from llmgw_core.config.schema import Config

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"config-(\d{6,})\.json")


class Loaded(msgspec.Struct, frozen=True):
    """One configuration that was loaded. `at` is in seconds since the epoch, `sha256` that of the
    text, `trigger` says who or what asked for it."""

    number: int
    at: float
    sha256: str
    trigger: str
    file: str
    text: str

    def __repr__(self) -> str:
        """Without the text."""
        return f"Loaded({self.number}, {self.trigger!r})"


class History:
    """The history in the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of(cls, config: Config) -> History:
        """That of the gateway that runs with `config`, whose paths are absolute."""
        return cls(Path(config.accounting.journal))

    def record(self, text: str, *, file: Path, trigger: str, at: float, keep: int) -> None:
        """Add `text`, unless it is what was loaded last, and forget all but the newest `keep`.
        Raises `OSError`."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        numbers = self._numbers()
        last = self._read(numbers[-1]) if numbers else None
        if keep and (last is None or last.sha256 != digest):
            number = numbers[-1] + 1 if numbers else 1
            self._write(Loaded(number, at, digest, trigger, str(file), text))
            numbers.append(number)
        for number in numbers[: max(0, len(numbers) - keep)]:
            self._path(number).unlink(missing_ok=True)

    def entries(self) -> list[Loaded]:
        """What is kept, the oldest first; damaged entries are left out."""
        found = (self._read(number) for number in self._numbers())
        return [entry for entry in found if entry is not None]

    def entry(self, number: int) -> Loaded:
        """One of them. Raises `ConfigError` when it is not kept."""
        found = self._read(number)
        if found is None:
            message = f"there is no configuration {number} in the history; `config history` lists"
            raise ConfigError(f"{message} what is kept.")
        return found

    def _numbers(self) -> list[int]:
        try:
            names = [entry.name for entry in self.root.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))

    def _path(self, number: int) -> Path:
        return self.root / f"config-{number:06d}.json"

    def _read(self, number: int) -> Loaded | None:
        try:
            return msgspec.json.decode(self._path(number).read_bytes(), type=Loaded)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, entry: Loaded) -> None:
        """In one step: whoever reads sees all of it or nothing."""
        draft = self._path(entry.number).with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(entry))
        draft.replace(self._path(entry.number))


async def remember(file: ConfigFile, trigger: str) -> None:
    """Put what was loaded into the history; without one, things go on."""
    record = partial(
        History.of(file.config).record,
        file.text,
        file=file.path,
        trigger=trigger,
        at=time.time(),
        keep=file.config.reload.history,
    )
    try:
        await asyncio.to_thread(record)
    except OSError as error:
        log.warning("the history of the configuration cannot be kept: %s", error)


def put_back(path: Path, text: str) -> None:
    """Write `text` into the file that `path` leads to, in one step, keeping its mode and owner as
    far as this user may. Raises `OSError`."""
    target = path.resolve()
    before = target.stat() if target.exists() else None
    # A name of its own: somebody else may do the same.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if before is not None:
                os.fchmod(file.fileno(), before.st_mode & 0o7777)
                with suppress(PermissionError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
