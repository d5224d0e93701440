"""What makes a served gateway read its configuration again: SIGHUP, and the file itself, or that of
its exchange rates, when `reload.watch` says how often to look at them.

A file that an editor or a deployment tool is still writing may be a valid configuration with half
of its models, so a change counts once two looks in a row have found the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from llmgw_core.gateway import Gateway

logger = logging.getLogger(__name__)

NOTE = "reload.pid"
"""In the journal's root: which process takes SIGHUP for a reload, and when that one began."""


class Stamp(NamedTuple):
    """What of a file changes with its contents, however they are replaced: in place, by a
    rename, or by another target of a symbolic link on the way to it."""

    modified_ns: int
    size: int
    inode: int
    device: int


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of the file that `path` leads to; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)


class Watch:
    """Decides from the stamps that are seen when a file has changed and come to rest."""

    def __init__(self, loaded: Stamp | None) -> None:
        self._loaded = loaded
        self._seen = loaded

    def changed(self, stamp: Stamp | None) -> bool:
        """Whether the file is to be read now that it has this stamp."""
        settled = stamp == self._seen
        self._seen = stamp
        if stamp is None or not settled or stamp == self._loaded:
            return False
        self._loaded = stamp
        return True


class Reloading:
    """Reloads one gateway. Made and ended by `reloading`."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._wanted = asyncio.Event()
        self._note = Path(gateway.config.accounting.journal) / NOTE
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen to SIGHUP and begin to watch."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.hang_up)
        with contextlib.suppress(OSError):  # for the convenience of `config rollback` only
            self._note.write_text(_myself())
        self._gateway.after_reload(self._wanted.set)
        if self._gateway.file is not None:
            self._spawn(self._watch(self._gateway.file))

    def hang_up(self) -> None:
        """What SIGHUP does."""
        self._spawn(self._reload("SIGHUP"))

    async def aclose(self) -> None:
        """Listen no more. A signal that comes now must not keep the gateway from closing, and
        without any handler it would end the process."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _too_late)
        with contextlib.suppress(OSError):
            self._note.unlink()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Looking for another configuration has ended.", exc_info=error)

    async def _reload(self, trigger: str) -> None:
        try:
            result = await self._gateway.reload(trigger=trigger)
        except ConfigError as error:
            logger.error("The configuration was not reloaded; nothing has changed.\n%s", error)  # noqa: TRY400 - the sentence says it all
            return
        if not result.changed and trigger == "SIGHUP":
            logger.info("The configuration says what it said before.")

    async def _watch(self, path: Path) -> None:
        watches: dict[Path, Watch] = {}
        while True:
            seconds = self._gateway.config.reload.watch
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds or None):
                    await self._wanted.wait()  # another interval may be in force
                    continue
            rates = self._gateway.config.accounting.exchange_rates
            files = [path, Path(rates)] if rates else [path]
            # What was loaded at the start may have been replaced since: the first look decides.
            seen = [watches.setdefault(file, Watch(None)).changed(stamp_of(file)) for file in files]
            if any(seen):
                await self._reload("file watch")


def _too_late() -> None:
    logger.info("The gateway is ending; its configuration is not reloaded.")


def ask_to_reload(journal: Path) -> str:
    """Send SIGHUP to the process that serves with the books in `journal`, if it is certain which
    one that is; returns a sentence for the operator."""
    by_hand = "A gateway that runs loads it on SIGHUP (`kill -HUP PID`) or POST /admin/v1/reload."
    try:
        number, began = (journal / NOTE).read_text().split()
        pid = int(number)
    except (OSError, ValueError):
        return by_hand
    if began == "-" or began != _began(pid):
        return by_hand
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError:
        return by_hand
    return f"Process {pid} was asked to load it; its log says how that went."


def _myself() -> str:
    return f"{os.getpid()} {_began(os.getpid())}"


def _began(pid: int) -> str:
    """When the process began, in ticks since the machine did: with its number it names one
    process for certain. `-` where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return fields[19]


@contextlib.asynccontextmanager
async def reloading(gateway: Gateway) -> AsyncIterator[Reloading]:
    """Reload `gateway` on SIGHUP and, if its configuration says so, when its file changes."""
    triggers = Reloading(gateway)
    triggers.start()
    try:
        yield triggers
    finally:
        await triggers.aclose()
