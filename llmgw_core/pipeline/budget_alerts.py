"""What budgets have come to, told once for each period, also over restarts.

An event is on the audit log before anybody hears of it: whoever starts later reads there what was
told. So a crash in between may lose the telling, and nothing is ever told twice. While the store is
down, events wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.limits.periods import EVER
from llmgw_core.store import tenancy_queries
from llmgw_core.store.budget_queries import AUDIT_KIND, TOLD
from llmgw_core.store.engine import unhurried
from llmgw_core.tenancy.records import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.limits.budget_book import BudgetEvent
    from llmgw_core.store.engine import Store

log = logging.getLogger("llmgw.budgets")

ACTOR: Final = "gateway"
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts to write while the store is down."""


class BudgetAlerts:
    """`clock` gives seconds since the epoch. Whoever is in `listeners` hears of every entry, and
    must not raise."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._waiting: deque[BudgetEvent] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.listeners: list[Callable[[AuditEntry], None]] = []

    @property
    def waiting(self) -> int:
        """Events that are not written down."""
        return len(self._waiting)

    def tell(self, event: BudgetEvent) -> None:
        """Tell of `event` as soon as it is written down."""
        self._waiting.append(event)
        self._wake.set()

    def start(self) -> None:
        """Begin to tell. Needs a running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="llmgw budget alerts")

    async def aclose(self) -> None:
        """Write down what waits, if the store answers, and end. May be repeated."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait({task})
        try:
            await self._write()
        except StoreUnavailable as error:
            log.warning("%d events of budgets are told later: %s", len(self._waiting), error)

    async def _run(self) -> None:
        pause = _PAUSE
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                # Whoever is stopped after the commit would tell it all again.
                await unhurried(self._write())
                pause = _PAUSE
            except StoreUnavailable:
                log.debug("events of budgets wait for the store", exc_info=True)
                self._wake.set()
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)

    async def _write(self) -> None:
        while self._waiting:
            events = tuple(self._waiting)
            values = [self._entry(event) for event in events]
            async with self._store.begin() as connection:
                ids = [await tenancy_queries.note(connection, each) for each in values]
            for id, each in zip(ids, values, strict=True):
                self._waiting.popleft()
                entry = AuditEntry(id=id, **each)
                log.warning("budget: %s", _sentence(entry))
                for listener in self.listeners:
                    listener(entry)

    def _entry(self, event: BudgetEvent) -> dict[str, Any]:
        kind, id = event.owner
        budget = event.budget
        return {
            "at": self._clock(),
            "actor": ACTOR,
            "action": TOLD,
            "kind": AUDIT_KIND,
            "object_id": id,
            "details": {
                "level": kind,
                "unit": budget.unit,
                "period": budget.period,
                "timezone": budget.timezone,
                "amount": budget.amount,
                "shadow": budget.shadow,
                "fallback": budget.fallback,
                "percent": event.percent,
                "refused": not event.percent,
                "spent": event.spent,
                "reserved": event.reserved,
                "start_ns": event.start_ns,
                "end_ns": None if event.end_ns == EVER else event.end_ns,
            },
        }


def message_of(entry: AuditEntry, currency: str) -> dict[str, Any]:
    """What a webhook is told of an entry. Amounts of money are in nano-units of `currency`."""
    told = entry.details
    return {
        "id": f"budget-{entry.id}",
        "type": "budget.refused" if told["refused"] else "budget.reached",
        "at": entry.at,
        "level": told["level"],
        "level_id": entry.object_id,
        **{name: told[name] for name in _TOLD},
        "currency": currency if told["unit"] == "money" else None,
    }


_TOLD: Final = (
    "unit",
    "period",
    "timezone",
    "amount",
    "percent",
    "spent",
    "reserved",
    "shadow",
    "fallback",
    "start_ns",
    "end_ns",
)


def _sentence(entry: AuditEntry) -> str:
    told = entry.details
    what = f"{told['level']} {entry.object_id}: {told['unit']} by the {told['period']}"
    if told["refused"]:
        does = "would refuse calls" if told["shadow"] else "refuses calls"
        if told["fallback"] and not told["shadow"]:
            does = f"leads calls to {told['fallback']}"
        return f"{what} {does} from now on"
    return f"{what} is at {told['percent']} % ({told['spent']} of {told['amount']})"
