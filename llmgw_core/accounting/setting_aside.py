"""A ledger that one record cannot keep from the others: what it refuses for good is put aside into
a file, and everything else is stored.

Only what the ledger itself calls refused is put aside. A store that is down, or a bug, which would
hit every record alike, leaves everything in the journal.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.accounting.refused import RefusedFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.accounting.port import LedgerPort
    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord

log = logging.getLogger(__name__)


class SettingAside:
    """Implements `LedgerPort` over `ledger`; `root` is where the journals are."""

    def __init__(self, ledger: LedgerPort, root: Path) -> None:
        self.refused = 0
        """Records put aside since the start."""
        self._ledger = ledger
        self.file = RefusedFile(root)

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        """As `LedgerPort.insert`, and never raises `RecordsRefused` for a call. Raises `OSError`
        when what is refused cannot be put aside; then it is not moved either."""
        try:
            return await self._ledger.insert(records, deliveries)
        except RecordsRefused as error:
            if not records:
                raise
            if len(records) == 1:
                self._keep(records[0], error)
                return await self.insert((), deliveries) if deliveries else 0
        middle = len(records) // 2
        stored = await self.insert(records[:middle], ())
        return stored + await self.insert(records[middle:], deliveries)

    def _keep(self, record: UsageRecord, error: RecordsRefused) -> None:
        log.error("call %s is put aside in %s: %s", record.call_id, self.file.path, error)
        self.file.add(record)
        self.refused += 1
