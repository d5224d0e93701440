"""Notes of calls under way, taken in the background while there are any.

A call is noted at the first tick at which its request has been sent and that is not the first one
it sees: most calls are over by then, and never noted. A running stream is noted about once a second
with what it has delivered. The call itself does nothing for it: what is new lies at the end of
`Books.open`, and what has been seen there is kept in a list until it is noted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from llmgw_core.hooks.foreign import Foreign
from llmgw_core.hooks.registry import ITSELF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llmgw_core.accounting.notes import Notes
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.pipeline.books import Books
    from llmgw_core.pipeline.settlement import Settlement
    from llmgw_core.pipeline.stats import Stats

TICK_SECONDS: Final = 0.01
LATE_SECONDS: Final = 2 * TICK_SECONDS
"""After so much time what was sent is noted."""
WAITING, WAITING_ON = -1.0, -2.0
"""`Settlement.noted` of what waits for a note, and of what was noted as having failed so far and
waits for the note of its next attempt. Both are in `Books.unnoted`."""
AGE_SECONDS: Final = 0.9
"""A running stream whose note is as old is noted anew, which is looked for every so many ticks:"""
LOOK_TICKS: Final = 10
CHECK_TICKS: Final = 100
"""How often it is looked whether the notes are still there, and tried again where they cannot be
written."""


class Noting:
    """One per gateway. `clock` gives the seconds of the books."""

    def __init__(self, notes: Notes, stats: Stats, clock: Callable[[], float]) -> None:
        self.asleep = True
        """Nothing is under way; who begins something has to `wake` it."""
        self._notes = notes
        self._stats = stats
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._pause = 0
        self._reading = Foreign(ITSELF, "stream", "continue")

    def wake(self) -> None:
        """Something has begun."""
        self.asleep = False
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def running(self) -> Iterable[str]:
        """The ids of the calls under way."""
        return [each.call.id for each in self._open()]

    def close(self) -> None:
        """Everything has been settled. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
        self.asleep = False
        self._notes.close()

    def note(self) -> None:
        """What is done at every tick."""
        self._ticks += 1
        if self._pause:
            self._pause -= 1
            return
        due = [each for books in tuple(self._stats.books) for each in _new(books)]
        if self._ticks % LOOK_TICKS == 0:
            due += self._streams()
        if self._ticks % CHECK_TICKS == 0 and not self._notes.present():
            self._begin_anew()
            return
        records = self._records(due)
        if records and not self._notes.append(records):
            self._begin_anew()

    def _tick(self) -> None:
        try:
            self.note()
        finally:
            self.asleep = not any(books.open for books in self._stats.books)
            if not self.asleep:
                self.wake()

    def _open(self) -> list[Settlement]:
        return [each for books in tuple(self._stats.books) for each in books.open]

    def _begin_anew(self) -> None:
        if not self._notes.begin_anew(self._records(self._open())):
            self._pause = CHECK_TICKS

    def _streams(self) -> Iterator[Settlement]:
        """Running streams whose note is old."""
        before = self._clock() - AGE_SECONDS
        for each in self._open():
            attempt = each.attempt
            if attempt is not None and attempt.reader is not None and 0 < each.noted <= before:
                yield each

    def _records(self, settlements: Iterable[Settlement]) -> list[UsageRecord]:
        now, found = self._clock(), []
        for settlement in settlements:
            # Readers of streams are plugins'.
            with self._reading:
                record = settlement.interim(now)
                if record is not None:
                    settlement.noted = now if settlement.noted >= 0 else WAITING_ON
                    found.append(record)
        return found


def _new(books: Books) -> list[Settlement]:
    """What has been sent, or has failed, and not been noted as that."""
    found, seen = [], tuple(books.unnoted)
    for settlement in reversed(books.open):
        if settlement.noted:
            break
        books.await_note(settlement)
    for settlement in seen:
        attempt = settlement.attempt
        if attempt is not None and attempt.sent:
            del books.unnoted[settlement]
            settlement.noted = 0.0
            found.append(settlement)
        elif settlement.attempts and settlement.noted == WAITING:
            # It has failed so far; its next attempt is still to come.
            found.append(settlement)
    return found
