"""What is usual for keys to spend in ten minutes, kept over restarts. Of keys that have not been
heard of for `KEPT_SECONDS` it is forgotten.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, insert, select, tuple_

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.limits.brake_runs import HISTORIES
from llmgw_core.limits.velocity import History
from llmgw_core.store.keeping import SAVE_SECONDS, Keeping
from llmgw_core.store.learned_tables import learned_spending

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.limits.brake_runs import Owner, Runs
    from llmgw_core.store.engine import Store

log = logging.getLogger(__name__)

KEPT_SECONDS: Final = 90 * 86_400.0
_AT_ONCE: Final = 300
"""Rows that are written with one statement."""


class LearnedSpending(Keeping):
    """Keeps what `runs` learn. `clock` gives seconds since the epoch, `interval` is in seconds."""

    def __init__(
        self,
        store: Store,
        runs: Runs,
        *,
        clock: Callable[[], float] = time.time,
        interval: float = SAVE_SECONDS,
    ) -> None:
        super().__init__("what keys usually spend", interval)
        self._store = store
        self._runs = runs
        self._clock = clock
        self._saved: dict[Owner, History] = {}

    async def load(self) -> None:
        """Begin with what the store has; before the first call."""
        table = learned_spending
        query = select(table).order_by(table.c.at.desc()).limit(HISTORIES)
        try:
            async with self._store.connect() as connection:
                rows = (await connection.execute(query)).all()
        except StoreUnavailable as error:
            log.warning("%s could not be read: %s", self._what, error)
            return
        # Only numbers: somebody may have written something else by hand.
        self._saved = {
            (row.kind, row.id): History(row.total, row.weight)
            for row in rows
            if isinstance(row.total, float) and isinstance(row.weight, float) and row.weight > 0
        }
        self._runs.adopt(self._saved)

    async def save(self) -> int:
        """Store what has changed since the last time; returns the number of keys. Raises
        `StoreUnavailable`."""
        known = self._runs.histories()
        changed = [(key, each) for key, each in known.items() if self._saved.get(key) != each]
        if changed:
            async with self._store.begin() as connection:
                for start in range(0, len(changed), _AT_ONCE):
                    await self._write(connection, changed[start : start + _AT_ONCE])
                outdated = learned_spending.c.at < self._clock() - KEPT_SECONDS
                await connection.execute(delete(learned_spending).where(outdated))
            self._saved = known
        return len(changed)

    async def _write(
        self, connection: AsyncConnection, changed: list[tuple[Owner, History]]
    ) -> None:
        table = learned_spending
        keys = tuple_(table.c.kind, table.c.id).in_([key for key, _ in changed])
        await connection.execute(delete(table).where(keys))
        rows = [
            {"kind": kind, "id": id, "at": self._clock(), **each._asdict()}
            for (kind, id), each in changed
        ]
        await connection.execute(insert(table), rows)
