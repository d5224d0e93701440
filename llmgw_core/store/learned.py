"""What was learned about the lengths of texts, kept over restarts.

Estimates are good from the first call on if they begin where they ended.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.limits.estimate import Lengths
from llmgw_core.store.keeping import SAVE_SECONDS, Keeping
from llmgw_core.store.learned_tables import learned_models

if TYPE_CHECKING:
    from llmgw_core.limits.estimate import TokenEstimator
    from llmgw_core.store.engine import Store

log = logging.getLogger(__name__)


class LearnedLengths(Keeping):
    """Keeps what `estimator` learns. `interval` in seconds."""

    def __init__(
        self, store: Store, estimator: TokenEstimator, *, interval: float = SAVE_SECONDS
    ) -> None:
        super().__init__("what was learned about lengths of texts", interval)
        self._store = store
        self._estimator = estimator
        self._saved: dict[str, Lengths] = {}

    async def load(self) -> None:
        """Let the estimator begin with what the store has; before the first call."""
        try:
            async with self._store.connect() as connection:
                rows = (await connection.execute(select(learned_models))).all()
        except StoreUnavailable as error:
            log.warning("%s could not be read: %s", self._what, error)
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
