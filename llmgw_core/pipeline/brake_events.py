"""What the brake has done, told to the log and to `on_audit`: once for each run and bound."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from llmgw_core.limits.budget_counts import decimal
from llmgw_core.tenancy.records import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.limits.brake_book import BrakeEvent

log = logging.getLogger("llmgw.brake")

KIND = "brake"
_OF_MONEY = frozenset({"money", "velocity"})


class BrakeWatch:
    """Hears of every event of the brake; one per gateway."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self.tell: Callable[[AuditEntry], None] | None = None
        """Tells plugins."""
        self._wall_clock = wall_clock

    def heard(self, event: BrakeEvent) -> None:
        """Tell of `event`."""
        log.warning("brake: %s", _sentence(event))
        if self.tell is not None:
            self.tell(
                AuditEntry(
                    id=0,
                    at=self._wall_clock(),
                    actor="gateway",
                    action=event.kind,
                    kind=KIND,
                    object_id=event.owner[1],
                    details=_details(event),
                )
            )


def _details(event: BrakeEvent) -> dict[str, Any]:
    return {
        "level": event.owner[0],
        "scope": event.scope,
        "bound": event.bound,
        "limit": _whole(event.limit, event.bound),
        "value": _whole(event.value, event.bound),
        "shadow": event.shadow,
        "session": event.session,
    }


def _whole(value: float, bound: str) -> float:
    return value if bound == "seconds" else int(value)


def _sentence(event: BrakeEvent) -> str:
    money = event.bound in _OF_MONEY
    limit, value = (
        (decimal(int(each)) if money else f"{each:g}") for each in (event.limit, event.value)
    )
    session = f", session {event.session}" if event.session else ""
    what = f"{' '.join(event.owner)}{session}: {event.bound} is at {value} of {limit}"
    if event.kind == "fast":
        return what
    return f"{what}; calls {'would be' if event.shadow else 'are'} refused"
