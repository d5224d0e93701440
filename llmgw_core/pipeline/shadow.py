"""Limits in shadow mode: what they would have refused is counted, and told once a minute for each
meter, to the log and to `on_audit`. Nobody is refused."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from llmgw_core.limits import words
from llmgw_core.tenancy.records import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.limits.port import Limiter, MeterSpec
    from llmgw_core.pipeline.stats import Stats

log = logging.getLogger("llmgw.limits")

PAUSE = 60.0
"""Seconds between two reports about one meter."""
_REMEMBERED = 1000
"""Meters, before those are forgotten that may be reported again."""


class ShadowWatch:
    """Hears of every meter in shadow mode that had no room; one per gateway."""

    def __init__(
        self,
        stats: Stats,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.tell: Callable[[AuditEntry], None] | None = None
        """Tells plugins."""
        self._stats = stats
        self._clock = clock
        self._wall_clock = wall_clock
        self._told: dict[str, float] = {}

    def watch(self, limiter: Limiter) -> None:
        """From now on `limiter` says which meters would have refused."""
        if "shadow" in getattr(limiter, "abilities", ()):
            able: Any = limiter  # see the port
            able.in_shadow = self.exceeded

    def exceeded(self, spec: MeterSpec) -> None:
        """A call went through that `spec` would have refused."""
        self._stats.shadowed[spec.scope, spec.unit] += 1
        now, told = self._clock(), self._told
        if now - told.get(spec.id, -PAUSE) < PAUSE:
            return
        if len(told) >= _REMEMBERED:
            self._told = told = {id: at for id, at in told.items() if now - at < PAUSE}
        told[spec.id] = now
        what = words.amount(spec)
        log.warning("limit in shadow mode would refuse calls: %s: %s", spec.id, what)
        if self.tell is not None:
            self.tell(
                AuditEntry(
                    id=0,
                    at=self._wall_clock(),
                    actor="gateway",
                    action="shadow_exceeded",
                    kind="limit",
                    object_id=spec.id,
                    details={"scope": spec.scope, "limit": what},
                )
            )
