"""Observers of a running gateway hear of switches whoever has set them: this process, or the
command line, whose audit entries are read from the store. Each entry is told once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.store import tenancy_queries as queries
from llmgw_core.tenancy.records import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

KIND: Final = "switch"
"""What is relayed. Of other changes observers hear from the process that makes them."""


class AuditRelay:
    """`tell` hears of every entry; it must not raise."""

    def __init__(self, tell: Callable[[AuditEntry], None]) -> None:
        self._tell = tell
        self._seen: int | None = None
        self._told: set[int] = set()

    def changed(self, entry: AuditEntry) -> None:
        """This process has made a change; perhaps it was read from the store a moment before."""
        if entry.id > (self._seen or 0) and entry.id not in self._told:
            self._told.add(entry.id)
            self._tell(entry)

    async def read(self, connection: AsyncConnection) -> tuple[int, tuple[AuditEntry, ...]]:
        """The newest id, and what is new in the store. At the start nothing is news."""
        newest, rows = await queries.audit_after(connection, KIND, self._seen)
        return newest, tuple(AuditEntry(**row) for row in rows)

    def apply(self, found: tuple[int, tuple[AuditEntry, ...]]) -> None:
        """Tell what nobody has told."""
        newest, entries = found
        for entry in entries:
            if entry.id not in self._told:
                self._tell(entry)
        self._seen = newest
        self._told = {id for id in self._told if id > newest}
