"""The room in which calls wait for a slot, and how they leave it: with a slot, or with 503.

Rule of this file: to take a call out of the queue and to count the slot that it gets is one step
without any waiting, so nobody comes in between, and a slot that is free while somebody waits for
it is nobody's for no moment. Whatever may have freed a slot says so (`freed`); what only time frees
(meters per minute) is looked at when it is due, and everything once a second.

Who is next is said by the queue, which may be a plugin's. When it fails nobody is let in until it
is asked again, and calls that wait end by their deadline.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from llmgw_core.domain.errors import GatewayError, overloaded
from llmgw_core.hooks.foreign import Foreign, plugin_error
from llmgw_core.routing.queue import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from llmgw_core.pipeline.stats import Stats
    from llmgw_core.routing.queue import Queue

    Slots = tuple[Hashable, ...]

T = TypeVar("T")

_LONGEST_LOOK: Final = 1.0
_LEARNING: Final = 0.2
"""How much the newest interval between two freed slots counts."""
_LONGEST_RETRY: Final = 600.0


class Guest(Waiting, Generic[T]):
    """A call in the room. `slots` are what it waits for one of, as `freed` names them, and `scarce`
    those of them, or others, that keep it waiting. `fits` says whether there is one for it; `begin`
    takes it then, or gives None when something else has come in the way; `give_back` undoes that.
    `due` are the seconds until `fits` may become true by time alone."""

    __slots__ = ("begin", "due", "fits", "future", "give_back", "scarce", "slots")

    def __init__(
        self,
        organization: str,
        slots: Slots,
        *,
        scarce: Slots | None = None,
        fits: Callable[[], bool],
        begin: Callable[[], T | None],
        give_back: Callable[[T], None],
        due: Callable[[], float] = lambda: _LONGEST_LOOK,
        priority: int = 1,
        weight: float = 1.0,
    ) -> None:
        super().__init__(organization, slots, priority=priority, weight=weight)
        self.slots = slots
        self.scarce = slots if scarce is None else scarce
        self.fits = fits
        self.begin = begin
        self.give_back = give_back
        self.due = due
        self.future: asyncio.Future[T | None] | None = None


class WaitingRoom:
    """One per queue; it outlives configurations. `name` is the queue's."""

    def __init__(
        self, queue: Queue, name: str, *, clock: Callable[[], float], stats: Stats
    ) -> None:
        self._queue = queue
        self._put = Foreign(f"queue {name}", "put", "continue")
        self._take = Foreign(f"queue {name}", "take", "continue")
        self._leave = Foreign(f"queue {name}", "leave", "continue")
        self._clock = clock
        self._stats = stats
        self._groups: dict[Slots, OrderedDict[Guest[Any], None]] = {}
        self._inside = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wanted: dict[Hashable, float] = {}
        """Since when, or since when again, no call has found one of these free."""
        self._paces: dict[Hashable, float] = {}

    def __len__(self) -> int:
        return self._inside

    async def wait(self, guest: Guest[T], *, length: int, seconds: float) -> T | None:
        """Until it is the turn of `guest`, with what its `begin` has given. Raises `GatewayError`
        503 when there is no place for it or when nothing is free within `seconds`."""
        self._admit(guest, length, seconds)
        assert guest.future is not None
        started, outcome = self._clock(), "left"
        try:
            async with asyncio.timeout(seconds):
                self.look()
                found = await guest.future
            outcome = "served"
            return found
        except TimeoutError:
            if guest.future.done() and not guest.future.cancelled():
                outcome = "served"  # at the last moment
                return guest.future.result()
            outcome = "timeout"
            raise self._late(guest, seconds) from None
        except GatewayError:
            outcome = "displaced"
            raise
        finally:
            self._gone(guest, outcome)
            self._stats.waited(outcome, self._clock() - started)

    def freed(self, slot: Hashable) -> None:
        """A slot of `slot` may have become free."""
        since, now = self._wanted.pop(slot, None), self._clock()
        if since is not None:
            self._learn(slot, now - since)
        if self._inside:
            self.look()
        if self._inside:
            self._wanted[slot] = now

    def look(self) -> None:
        """Let in whoever fits, one after the other. What does not fit one call does not fit another
        one with the same slots either: who needs few tokens does not overtake who needs many."""
        closed: set[Slots] = set()

        def fits(waiting: Waiting) -> bool:
            if not isinstance(waiting, Guest) or waiting.slots in closed:
                return False
            if waiting.fits():
                return True
            closed.add(waiting.slots)
            return False

        while self._inside:
            found: Waiting | None = None
            with self._take:
                found = self._queue.take(fits)
            if not isinstance(found, Guest) or not self._forget(found):
                break
            if found.future is not None and not found.future.done():
                found.future.set_result(found.begin())
        self._arm()

    def retry_after(self, guest: Guest[Any], otherwise: float) -> float:
        """Seconds until a call like `guest` that came now would have its turn behind those that
        wait, if slots go on becoming free as they did; `otherwise` as long as none has."""
        rate = sum(1 / self._paces[slot] for slot in guest.scarce if slot in self._paces)
        if not rate:
            return otherwise
        wanted, shared = set(guest.slots), guest.scarce is not guest.slots
        groups = self._groups.items()
        ahead = sum(len(group) for slots, group in groups if shared or not wanted.isdisjoint(slots))
        ahead -= guest in self._groups.get(guest.slots, ())
        return min((ahead + 1) / rate, _LONGEST_RETRY)

    def _admit(self, guest: Guest[Any], length: int, seconds: float) -> None:
        leaving: Waiting | None = guest
        failed = True
        now = self._clock()
        for slot in guest.scarce:
            self._wanted.setdefault(slot, now)
        with self._put:
            leaving = self._queue.put(guest, length)
            failed = False
        if failed:
            raise plugin_error()
        if leaving is guest:
            self._stats.waited("full", 0.0)
            raise self._full(guest, seconds)
        guest.future = asyncio.get_running_loop().create_future()
        self._groups.setdefault(guest.slots, OrderedDict())[guest] = None
        self._inside += 1
        self._stats.waiting += 1
        if isinstance(leaving, Guest) and self._forget(leaving):
            future = leaving.future
            if future is not None and not future.done():
                future.set_exception(self._full(leaving, seconds))

    def _gone(self, guest: Guest[Any], outcome: str) -> None:
        """It waits no longer, for whatever reason."""
        self._stats.waiting -= 1
        if self._forget(guest):
            with self._leave:
                self._queue.leave(guest)
        future = guest.future
        assert future is not None
        if outcome == "left" and future.done() and not future.cancelled():
            # It was let in and has left in the same moment: the slot is for the next one.
            if future.exception() is None and (found := future.result()) is not None:
                guest.give_back(found)
            self.look()
        if not self._inside and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self, guest: Guest[Any]) -> bool:
        """Whether it was still there."""
        group = self._groups.get(guest.slots)
        if group is None or guest not in group:
            return False
        del group[guest]
        if not group:
            del self._groups[guest.slots]
        self._inside -= 1
        return True

    def _late(self, guest: Guest[Any], otherwise: float) -> GatewayError:
        return overloaded(
            "Too many calls are waiting for this model; yours could not be served in time.",
            code="queue_timeout",
            retry_after=self.retry_after(guest, otherwise),
        )

    def _full(self, guest: Guest[Any], otherwise: float) -> GatewayError:
        return overloaded(
            "Too many calls are waiting for this model; there is no place for yours.",
            code="queue_full",
            retry_after=self.retry_after(guest, otherwise),
        )

    def _learn(self, slot: Hashable, interval: float) -> None:
        """How long it has taken until a slot was free while it was wanted."""
        interval, known = max(interval, 1e-6), self._paces.get(slot)
        self._paces[slot] = interval if known is None else known + _LEARNING * (interval - known)

    def _arm(self) -> None:
        """Look again when time alone may have freed something."""
        if self._timer is not None or not self._inside:
            return
        first = (next(iter(group)) for group in self._groups.values())
        due = min(_LONGEST_LOOK, *(guest.due() for guest in first))
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(due, 0.001), self._due)

    def _due(self) -> None:
        self._timer = None
        self.look()
