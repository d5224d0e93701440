"""What was learned about the lengths of texts, kept over restarts.

Estimates are good from the first call on if they begin where they ended. It is a convenience and
no part of the books: a store that is down costs what was learned in the meantime, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, insert, select

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.limits.estimate import Lengths
from llmgw_core.store.learned_tables import learned_models

if TYPE_CHECKING:
    from llmgw_core.limits.estimate import TokenEstimator
    from llmgw_core.store.engine import Store

log = logging.getLogger(__name__)

SAVE_SECONDS: Final = 60.0
"""Between two looks whether there is something to save."""

CLOSE_SECONDS: Final = 2.0
"""For the store to take what was learned when the gateway closes."""


class LearnedLengths:
    """Keeps what `estimator` learns. `interval` in seconds."""

    def __init__(
        self, store: Store, estimator: TokenEstimator, *, interval: float = SAVE_SECONDS
    ) -> None:
        self._store = store
        self._estimator = estimator
        self._interval = interval
        self._saved: dict[str, Lengths] = {}
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Let the estimator begin with what the store has; before the first call."""
        try:
            async with self._store.connect() as connection:
                rows = (await connection.execute(select(learned_models))).all()
        except StoreUnavailable as error:
            log.warning("what was learned about lengths of texts could not be read: %s", error)
            return
        # Only numbers: somebody may have written something else by hand.
        self._saved = {
            row.model: Lengths(*row[1:])
            for row in rows
            if all(isinstance(value, int | float) for value in row[1:])
        }
        self._estimator.adopt(self._saved)

    async def save(self) -> int:
        """Store what has changed since the last time; returns the number of models. Raises
        `StoreUnavailable`."""
        known = self._estimator.known()
        changed = {name: each for name, each in known.items() if self._saved.get(name) != each}
        if changed:
            async with self._store.begin() as connection:
                names = learned_models.c.model.in_(list(changed))
                await connection.execute(delete(learned_models).where(names))
                rows = [{"model": name, **each._asdict()} for name, each in changed.items()]
                await connection.execute(insert(learned_models), rows)
            self._saved |= changed
        return len(changed)

    def start(self) -> None:
        """Begin to save in the background. Needs a running loop."""
        self._task = asyncio.create_task(self._run(), name="llmgw learned lengths")

    async def aclose(self) -> None:
        """End, and save what can be saved soon. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.save()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("what was learned about lengths of texts could not be saved: %s", error)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            with contextlib.suppress(StoreUnavailable):  # said by those who need the store
                await self.save()
