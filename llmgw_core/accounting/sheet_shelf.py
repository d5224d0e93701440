"""Price sheets on their way into the store.

A sheet gets here before the first call that is priced by it, so before any row that names it. It
waits in memory and in a file beside the journals, which survives the process, until the store
has it; that is seen to whenever rows are moved, before them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.accounting.price_sheet import PriceSheet, read_sheet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from llmgw_core.accounting.port import LedgerPort
    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord

log = logging.getLogger(__name__)

FILE: Final = "price-sheets.jsonl"
"""Below the journal's root, which has one gateway."""


class SheetShelf:
    """What is not stored yet. `put` stores sheets and raises `StoreUnavailable`; storing one again
    must do nothing. `root` is where the journals are."""

    def __init__(self, root: Path, put: Callable[[Sequence[PriceSheet]], Awaitable[None]]) -> None:
        self.pending: dict[str, PriceSheet] = {}
        """By id."""
        self._put = put
        self._file = root / FILE
        self._known: set[str] = set()
        self._read()

    def add(self, sheet: PriceSheet) -> None:
        """Keep `sheet` unless it is known. Never fails: on a full disk it is kept in memory."""
        id = sheet.id
        if id in self._known:
            return
        self._known.add(id)
        self.pending[id] = sheet
        try:
            # Begun on a line of its own, so that one that was torn does not take this one along.
            self._append(b"\n" + sheet.json() + b"\n")
        except OSError as error:
            log.error("%s cannot be written: %s", self._file, error.strerror)  # noqa: TRY400 - expected

    async def store(self) -> None:
        """Store what is pending. Raises `StoreUnavailable`, and then it stays."""
        batch = dict(self.pending)
        await self._put(list(batch.values()))
        for id in batch:
            del self.pending[id]
        if not self.pending:
            with contextlib.suppress(OSError):  # then they are stored once more, which does nothing
                self._file.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        fd = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

    def _read(self) -> None:
        """What an earlier process could not store. A line that was torn has priced no call."""
        try:
            lines = self._file.read_bytes().splitlines()
        except OSError:
            return
        for line in filter(None, lines):
            try:
                sheet = read_sheet(line)
            except msgspec.DecodeError:
                log.warning("%s has a line that is no price sheet", self._file)
                continue
            self._known.add(sheet.id)
            self.pending[sheet.id] = sheet


class PricedLedger:
    """Implements `LedgerPort`: `ledger`, with the sheets of its rows stored before them."""

    def __init__(self, ledger: LedgerPort, shelf: SheetShelf) -> None:
        self._ledger = ledger
        self._shelf = shelf

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        """As `LedgerPort.insert`."""
        if self._shelf.pending:
            await self._shelf.store()
        return await self._ledger.insert(records, deliveries)
