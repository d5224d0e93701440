"""What accounting asks of a ledger; `store.ledger` implements it on SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.usage import DeliveryRecord, UsageRecord


class RecordsRefused(Exception):
    """The ledger takes one of these records neither now nor later; nothing was stored."""


class LedgerPort(Protocol):
    """Where usage records end up for good."""

    async def insert(
        self, records: Sequence[UsageRecord], deliveries: Sequence[DeliveryRecord]
    ) -> int:
        """Store all of it in one transaction and return the number of rows that are new.

        Idempotent by call id: a record whose call is stored already changes nothing. A
        delivery updates the stored row of its call. Raises `StoreUnavailable`, and then
        nothing was stored, or it was and a repetition does no harm. Raises `RecordsRefused` when a
        record is the reason, and not the store.
        """
        ...
