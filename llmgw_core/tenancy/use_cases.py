"""What use cases on levels have in common: a store, a clock, and who hears of changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llmgw_core.tenancy.changes import change
from llmgw_core.tenancy.references import find, organization_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.changes import Change
    from llmgw_core.tenancy.records import AuditEntry, Kind


class UseCases:
    """`clock` gives seconds since the epoch; `changed` is called with the audit entry of every
    change that is in the database, and then `applied` is awaited, which brings it into force in
    this process."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[AuditEntry], None] | None = None,
        applied: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._applied = applied

    def _change(self, actor: str) -> AbstractAsyncContextManager[Change]:
        return change(self._store, actor, self._clock(), self._changed)

    async def _apply(self) -> None:
        if self._applied is not None:
            await self._applied()


async def level_row(
    doing: Change, kind: Kind[Any], reference: str, organization: str | None
) -> dict[str, Any]:
    """The row of the level that `reference` means, in `organization` if that is named."""
    inside = await organization_id(doing.connection, organization)
    return await find(doing.connection, kind, reference, inside)
