"""The mover: carries records from journals into the ledger, in the background and in batches.

It may crash, repeat itself or race with another one at any point: the ledger ignores calls
that it has, so the only rule to keep is that nothing is deleted before it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from llmgw_core.accounting import directory as directories
from llmgw_core.accounting import segments
from llmgw_core.accounting.directory import Directory, Progress
from llmgw_core.accounting.notes import noted
from llmgw_core.accounting.setting_aside import SettingAside
from llmgw_core.accounting.summaries import drop_summary, has_summary, summarize
from llmgw_core.accounting.unmoved import orphaned, unread
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.usage import DeliveryRecord, UsageRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Set
    from pathlib import Path

    from llmgw_core.accounting.framing import Record
    from llmgw_core.accounting.journal import Extent, Journal, Recent
    from llmgw_core.accounting.port import LedgerPort
    from llmgw_core.accounting.segments import Damage, DamageKind
    from llmgw_core.accounting.unmoved import Summed

log = logging.getLogger(__name__)

MAX_PAUSE: Final = 30.0
"""The longest pause between two attempts, in seconds, while the store is down."""


_READ_AT_ONCE: Final = 3000
"""Records; the event loop waits for them to be read."""


def pause(interval: float, failures: int) -> float:
    """Seconds until the next run after `failures` failed ones in a row: doubling, bounded."""
    return max(interval, min(MAX_PAUSE, interval * (1 << min(failures, 16))))


class Mover:
    """Moves the records of `journal`, and of every orphaned journal below `root`.

    `journal=None` only adopts. `interval` is the pause between two runs in seconds, `batch` how
    many records one transaction stores. After `start()` it must be closed.
    """

    def __init__(
        self,
        root: Path,
        journal: Journal | None,
        ledger: LedgerPort,
        *,
        interval: float = 1.0,
        batch: int = 12_000,
    ) -> None:
        self.moved = 0
        """Records stored since the start, those that were known already included."""
        self.failures = 0
        """Runs that failed in a row."""
        self.bugs = 0
        """Runs that failed for another reason than a store that does not answer."""
        self.damage: Counter[DamageKind] = Counter()
        """Places in journals that could not be read, by kind."""
        self.running_calls: Callable[[], Iterable[str]] = tuple
        """The ids of what this process has under way: wherever it was noted, it is not over."""
        self._root = root
        self._journal = journal
        self._ledger = SettingAside(ledger, root)
        self.interval = interval
        self._batch = batch
        self._progress: dict[str, Progress] = {}
        self._unadopted: dict[Path, str] = {}
        """Abandoned journals, and why they cannot be moved."""
        self._busy = asyncio.Lock()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to move in the background."""
        self._task = asyncio.create_task(self._run(), name="ledger mover")
        self._task.add_done_callback(_report_end)

    @property
    def refused(self) -> int:
        """Records that the ledger does not take, put aside since the start."""
        return self._ledger.refused

    def notices(self) -> list[str]:
        """What somebody should look into; calls are not affected."""
        kept = self._root / directories.KEPT_NAME
        found = []
        if damaged := self.damage.total() - self.damage["torn"]:
            found.append(f"{damaged} places in journals could not be read; they are in {kept}.")
        if self._ledger.file.present():
            found.append(
                f"The ledger has refused records; they are in {self._ledger.file.path}, and"
                " `llmgw-server refused` shows them."
            )
        found += [
            f"The abandoned journal {path} cannot be moved: {why}."
            for path, why in self._unadopted.items()
            if path.exists()
        ]
        if self.failures:
            found.append(f"Moving into the ledger has failed {self.failures} times in a row.")
        return found

    @property
    def running(self) -> bool:
        """Whether the background task is at work."""
        return self._task is not None and not self._task.done()

    @property
    def backlog(self) -> int:
        """Bytes of the own journal that are not in the ledger yet."""
        if self._journal is None:
            return 0
        return sum(len(data) for data in self._journal.queued()) + sum(
            extent.end - self._offset(extent.path) for extent in self._journal.extents()
        )

    async def move_once(self) -> int:
        """Move everything that is there now; returns the number of records.
        Raises `StoreUnavailable`."""
        async with self._busy:
            before, running = self.moved, frozenset(self.running_calls())
            if self._journal is not None:
                await self._move_own(self._journal)
            await self._move_orphans(running)
            return self.moved - before

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nothing is moved meanwhile: what is in journals and what is in the ledger add up."""
        async with self._busy:
            yield

    def unmoved(self) -> Iterator[UsageRecord]:
        """What is in the own journal and has not been moved, as of now. Raises `OSError`."""
        journal = self._journal
        if journal is not None:
            for item in journal.queued():
                yield from _usages(segments.records(item))
            for extent in journal.extents():
                for records in unread(extent.path, self._offset(extent.path), extent.end):
                    yield from records

    def orphaned(self) -> Iterator[list[UsageRecord] | Summed]:
        """`unmoved.orphaned` of all journals but the own one. Raises `OSError`."""
        return orphaned(self._root, self._own)

    @property
    def _own(self) -> Path | None:
        return self._journal.directory.path if self._journal is not None else None

    async def aclose(self, patience: float = 10.0) -> None:
        """Stop, and move what can be moved within `patience` seconds; the rest stays in the
        journal for the next process. To be closed before the journal; may be called again."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})
        try:
            async with asyncio.timeout(patience):
                await self.move_once()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("records stay in the journal until the next start: %s", error)

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._try()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause(self.interval, self.failures)):
                    await self._closing.wait()

    async def _try(self) -> None:
        """Move what is there. Whatever fails is tried again, later and later; nothing is lost
        meanwhile, so there is nothing for which the mover would stop."""
        work = asyncio.create_task(self.move_once(), name="ledger move")
        await asyncio.wait({work})
        error = work.exception()
        if error is None:
            self.failures = 0
            return
        self.failures += 1
        if not isinstance(error, StoreUnavailable):
            self.bugs += 1
            log.error("moving into the ledger has failed unexpectedly", exc_info=error)
            return
        if self.failures == 1:
            log.warning("the ledger waits for the store: %s", error)
        await self._summarize()

    async def _summarize(self) -> None:
        """Nobody knows how long the store stays down, and whether this process outlives that: add
        up what is full, for the start of the next one."""
        for extent in self._journal.extents() if self._journal is not None else ():
            path, fresh = extent.path, not self._offset(extent.path)
            if extent.closed and fresh and not self._closing.is_set() and not has_summary(path):
                try:
                    await asyncio.to_thread(summarize, path, extent.end)
                except OSError as error:
                    log.warning("%s is not added up: %s", path, error)
                    return

    async def _move_own(self, journal: Journal) -> None:
        journal.check()
        if not journal.retry():
            await self._move_queue(journal)
        journal.flush()
        if journal.wants_spare:
            await asyncio.to_thread(journal.prepare)
        extents, recent = journal.extents(), journal.take_recent()
        for extent in extents:
            # What the journal still knows need not be read.
            limit = extent.end if extent.closed else recent.start
            try:
                await self._move_segment(
                    journal.directory, extent.path, self._progress, limit=limit
                )
                if extent.closed:
                    self._dispose(extent.path, self._progress)
                    journal.forget(extent.path)
            except FileNotFoundError:
                # The open segment is looked after by `Journal.check`.
                if extent.closed:
                    lost = extent.end - self._offset(extent.path)
                    log.error("%s was deleted with %d bytes not moved", extent.path, lost)  # noqa: TRY400 - expected, a traceback says nothing
                    journal.forget(extent.path)
            except OSError as error:
                log.error("%s cannot be read: %s", extent.path, error)  # noqa: TRY400 - expected
        await self._move_recent(journal.directory, extents[-1], recent)
        last = extents[-1]
        known = self._progress.get(last.path.name, Progress())
        # A damaged one is left for the adopter, who keeps it.
        if known.offset == last.end and not known.damaged:
            journal.moved_to = (last.path, last.end)

    async def _move_recent(self, directory: Directory, extent: Extent, recent: Recent) -> None:
        """The end of the open segment, from memory. What fails here is read the next time."""
        known = self._progress.setdefault(extent.path.name, Progress())
        if not recent.records or known.offset != recent.start:
            return
        for start in range(0, len(recent.records), self._batch):
            batch = recent.records[start : start + self._batch]
            await self._ledger.insert(batch, ())
            self.moved += len(batch)
        known.offset = extent.end
        with contextlib.suppress(OSError):
            directory.save_progress(self._progress)

    async def _move_queue(self, journal: Journal) -> None:
        """The journal cannot be written, but perhaps the store can."""
        items = journal.queued()
        for item in items:
            await self._store(segments.records(item))
            journal.drop([item])

    async def _move_orphans(self, running: Set[str]) -> None:
        with contextlib.ExitStack() as stack:
            try:
                adopted = directories.adopt_all(self._root, self._own, stack, self._left_alone)
            except OSError as error:
                log.error("abandoned journals cannot be looked for: %s", error)  # noqa: TRY400 - expected
                return
            # What was under way comes after all that is on the books anywhere.
            for step in (self._adopt, partial(self._book_interrupted, running)):
                for directory in tuple(adopted):
                    try:
                        await step(directory)
                    except OSError as error:
                        adopted.remove(directory)
                        self._left_alone(directory.path, error)

    def _left_alone(self, path: Path, error: OSError) -> None:
        """It is tried again at every run, and told of once."""
        if self._unadopted.get(path) != str(error):
            self._unadopted[path] = str(error)
            log.error("the abandoned journal %s cannot be adopted: %s", path, error)

    async def _adopt(self, directory: Directory) -> None:
        progress = directory.load_progress()
        for segment in directory.segments():
            await self._move_segment(directory, segment, progress)
            self._dispose(segment, progress)

    async def _book_interrupted(self, running: Set[str], directory: Directory) -> None:
        """Calls that were under way when their process was killed, as they were noted last. Most
        of what is noted has been settled since, which the ledger knows."""
        notes = noted(directory.path)
        records = [each for id, each in notes.items() if id not in running]
        if records:
            new = await self._ledger.insert(records, ())
            self.moved += new
            if new:
                log.warning("%d calls were under way when their process was killed", new)
        directory.remove()

    async def _move_segment(
        self,
        directory: Directory,
        path: Path,
        progress: dict[str, Progress],
        *,
        limit: int | None = None,
    ) -> None:
        known = progress.setdefault(path.name, Progress())
        while limit is None or known.offset < limit:
            maximum = min(self._batch, _READ_AT_ONCE)
            batch = segments.read_batch(path, known.offset, limit=limit, maximum=maximum)
            await self._store(batch.records)
            known.offset = batch.offset
            for damage in batch.damage:
                self._report(path, damage)
                known.damaged |= damage.kind != "torn"
            # A checkpoint only saves work; a full disk must not stop the moving.
            with contextlib.suppress(OSError):
                directory.save_progress(progress)
            if batch.finished:
                return

    async def _store(self, records: Sequence[Record]) -> None:
        if records:
            await self._ledger.insert(
                [record for record in records if isinstance(record, UsageRecord)],
                [record for record in records if isinstance(record, DeliveryRecord)],
            )
            self.moved += len(records)

    def _dispose(self, path: Path, progress: dict[str, Progress]) -> None:
        if progress.pop(path.name, Progress()).damaged:
            log.error("the damaged segment is kept as %s", directories.keep(path, self._root))
        else:
            path.unlink()
        drop_summary(path)

    def _report(self, path: Path, damage: Damage) -> None:
        self.damage[damage.kind] += 1
        level = logging.WARNING if damage.kind == "torn" else logging.ERROR
        log.log(level, "%s: bytes %d to %d are %s", path, damage.start, damage.end, damage.kind)

    def _offset(self, path: Path) -> int:
        known = self._progress.get(path.name)
        return known.offset if known is not None else 0


def _usages(records: Iterable[Record]) -> Iterator[UsageRecord]:
    return (record for record in records if isinstance(record, UsageRecord))


def _report_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("the ledger mover died", exc_info=task.exception())
