"""Calls that are booked at zero because their model has no price: counted, and said in the log once
an hour for each model, so that nobody learns of them from an invoice."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.pipeline.stats import Stats

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 3600.0


class Unpriced:
    """`clock` gives seconds and never goes backwards."""

    def __init__(self, prices: PriceBook, stats: Stats, clock: Callable[[], float]) -> None:
        self._prices = prices
        self._stats = stats
        self._clock = clock

    def booked(self, deployment: Deployment, started_ns: int) -> None:
        """What `deployment` did for a call that began then is booked at zero."""
        stats, model, now = self._stats, deployment.model, self._clock()
        stats.unpriced[model] += 1
        if now - stats.unpriced_told.get(model, -PAUSE_SECONDS) < PAUSE_SECONDS:
            return
        stats.unpriced_told[model] = now
        reason = self._prices.reason(model, deployment.id, started_ns)
        log.warning("calls of %s are booked at zero: %s", deployment.id, reason)
