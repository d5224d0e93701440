"""Putting corrections on the books, for the use cases that make them out of what they have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.accounting.port import RecordsRefused
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.store.ledger import Ledger


async def correct(ledger: Ledger, entries: Sequence[UsageRecord]) -> bool:
    """Book reversals and rebookings, all of them or none; False: somebody else has corrected one of
    the calls meanwhile, so they have to be read anew. Raises `TenancyError` when the ledger does
    not take them, and `StoreUnavailable`."""
    try:
        return not entries or await ledger.correct(entries)
    except RecordsRefused as error:
        raise TenancyError(
            f"The rest of the calls cannot be corrected: {error}. Retention may have begun to"
            " delete their time; begin later."
        ) from error
