"""The gateway's own queue: by priority, within a priority fair among organisations, and in the
order of arrival within an organisation.

Fairness is start-time fair queueing (Goyal, Vin and Cheng, 1996) with one slot as the unit of
service: every organisation has a tag that grows by 1/weight with each slot it gets, and the
smallest tag is next. So an organisation with a thousand calls waiting gets as many slots as one
with two, as long as both wait. Who had nothing waiting for a while has saved nothing up.

Priorities are strict up to a bound: a class that was passed over `PASSES` times in a row goes
next. And when too many calls wait, the newest call of whoever has the most of them leaves, so
that nobody can take the places of all others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from llmgw_core.routing.queue import Fits, Waiting

PASSES: Final = 9
"""How many slots in a row may go to more urgent classes while another one waits."""
_SPARE_TAGS: Final = 64
"""Tags of organisations without waiting calls that may pile up before they are looked through."""


class _Line:
    """The waiting calls of one organisation in one class, by pool. The numbers say in which order
    they came."""

    __slots__ = ("pools", "size", "weight")

    def __init__(self) -> None:
        self.pools: dict[Hashable, OrderedDict[Waiting, int]] = {}
        self.size = 0
        self.weight = 1.0

    def put(self, waiting: Waiting, number: int) -> None:
        self.pools.setdefault(waiting.pool, OrderedDict())[waiting] = number
        self.size += 1
        self.weight = waiting.weight

    def remove(self, waiting: Waiting) -> bool:
        calls = self.pools.get(waiting.pool)
        if calls is None or calls.pop(waiting, None) is None:
            return False
        if not calls:
            del self.pools[waiting.pool]
        self.size -= 1
        return True

    def first(self) -> int:
        """The number of the call that has waited longest."""
        return min(next(iter(calls.values())) for calls in self.pools.values())

    def turn(self, fits: Fits) -> Waiting | None:
        """The call that has waited longest of those that fit."""
        heads = sorted(
            (next((number, one) for one, number in calls.items()) for calls in self.pools.values()),
            key=_number,
        )
        return next((one for _, one in heads if fits(one)), None)

    def newest(self) -> Waiting:
        """The call that came last."""
        last = (next(reversed(calls.items())) for calls in self.pools.values())
        return max(last, key=lambda item: item[1])[0]


def _number(item: tuple[int, Waiting]) -> int:
    return item[0]


class _Class:
    """The waiting calls of one priority."""

    __slots__ = ("_now", "_tags", "lines", "passed", "size")

    def __init__(self) -> None:
        self.lines: dict[str, _Line] = {}
        self.size = 0
        self.passed = 0
        self._now = 0.0
        self._tags: dict[str, float] = {}

    def put(self, waiting: Waiting, number: int) -> None:
        name = waiting.organization
        line = self.lines.get(name)
        if line is None:
            line = self.lines[name] = _Line()
            # What it did not use while it had nothing waiting is gone.
            self._tags[name] = max(self._tags.get(name, 0.0), self._now)
        line.put(waiting, number)
        self.size += 1

    def remove(self, waiting: Waiting) -> None:
        line = self.lines.get(waiting.organization)
        if line is None or not line.remove(waiting):
            return
        self.size -= 1
        if not line.size:
            del self.lines[waiting.organization]
            self._clean()

    def turn(self, fits: Fits) -> Waiting | None:
        """Whose turn it is."""
        tags = self._tags
        order = sorted(self.lines.items(), key=lambda item: (tags[item[0]], item[1].first()))
        found = (line.turn(fits) for _, line in order)
        return next((waiting for waiting in found if waiting is not None), None)

    def served(self, waiting: Waiting) -> None:
        """It has got a slot. Whoever could not be served for a while, because nothing fitted, is
        first now, but only once."""
        name = waiting.organization
        self._now = max(self._now, self._tags[name])
        self._tags[name] = self._now + 1 / waiting.weight
        self.remove(waiting)
        self.passed = 0

    def longest(self) -> tuple[str, _Line]:
        """The organisation with the most calls waiting for its weight."""
        return max(self.lines.items(), key=lambda item: item[1].size / item[1].weight)

    def _clean(self) -> None:
        if not self.lines:
            self._tags.clear()
            self._now = 0.0
            self.passed = 0
        elif len(self._tags) > 2 * len(self.lines) + _SPARE_TAGS:
            tags, now = self._tags, self._now
            self._tags = {
                name: tag for name, tag in tags.items() if name in self.lines or tag > now
            }


class FairQueue:
    """See the module; the port is `routing.queue.Queue`."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}
        self._number = 0

    def __len__(self) -> int:
        return sum(each.size for each in self._classes.values())

    def put(self, waiting: Waiting, limit: int) -> Waiting | None:
        """See the port."""
        own = self._classes.get(waiting.priority)
        if own is None:
            own = self._classes[waiting.priority] = _Class()
            self._classes = dict(sorted(self._classes.items()))
        leaving = None
        if own.size >= limit:
            leaving = self._instead(own, waiting)
            if leaving is waiting:
                return waiting
            own.remove(leaving)
        self._number += 1
        own.put(waiting, self._number)
        return leaving

    def take(self, fits: Fits) -> Waiting | None:
        """See the port."""
        ready = list(self._ready(fits))
        if not ready:
            return None
        chosen = next((item for item in ready if item[0].passed >= PASSES), ready[0])
        for other, _ in ready[ready.index(chosen) + 1 :]:
            other.passed += 1
        chosen[0].served(chosen[1])
        return chosen[1]

    def leave(self, waiting: Waiting) -> None:
        """See the port."""
        own = self._classes.get(waiting.priority)
        if own is not None:
            own.remove(waiting)

    def _ready(self, fits: Fits) -> Iterator[tuple[_Class, Waiting]]:
        """The classes in which somebody could go now, the most urgent first."""
        for each in self._classes.values():
            if each.size and (waiting := each.turn(fits)) is not None:
                yield each, waiting

    def _instead(self, own: _Class, waiting: Waiting) -> Waiting:
        """Who leaves when `waiting` comes: somebody only if that makes it fairer."""
        if not own.lines:
            return waiting
        name, line = own.longest()
        mine = own.lines.get(waiting.organization)
        after = ((0 if mine is None else mine.size) + 1) / waiting.weight
        if name == waiting.organization or (line.size - 1) / line.weight < after:
            return waiting
        return line.newest()
