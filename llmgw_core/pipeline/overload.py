"""When more calls come than can be served: the cap on the gateway's calls, and the wait for a slot.

A call needs a place among the calls that the gateway serves at once, if that is capped, and a slot
on a deployment. It gets both in one step or waits for both; while it waits it holds nothing but its
reservation. Calls that plugins make in the course of another one need no place of their own: they
are a part of that one.

All of this is in nobody's way while it is not configured: then a call has no `Turn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llmgw_core.domain.errors import GatewayError
from llmgw_core.pipeline.waiting import Guest, WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from llmgw_core.config.schema_streams import OverloadConfig, QueueRule
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.deployment import Model
    from llmgw_core.pipeline.attempts import Attempts, Deliver
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.stats import Stats
    from llmgw_core.routing.balance import Member
    from llmgw_core.routing.caps import CapTicket
    from llmgw_core.routing.course import Course
    from llmgw_core.routing.queue import Queue

PLACE: Final = ("gateway",)
"""Stands for a place among the calls of the gateway, as the ids of deployments do for slots."""
PRIORITIES: Final = {"high": 0, "normal": 1, "low": 2}


class Doors:
    """What outlives configurations: how many calls are served, and the rooms of the queues."""

    def __init__(self, stats: Stats, clock: Callable[[], float]) -> None:
        self.serving = 0
        self._stats = stats
        self._clock = clock
        self._rooms: dict[int, tuple[Queue, WaitingRoom]] = {}

    def room(self, queue: Queue, name: str) -> WaitingRoom:
        """The room of `queue`, the same as long as the queue is."""
        known = self._rooms.get(id(queue))
        if known is None:
            room = WaitingRoom(queue, name, clock=self._clock, stats=self._stats)
            known = self._rooms[id(queue)] = queue, room
        return known[1]


class Overload:
    """What one configuration says about it."""

    def __init__(self, config: OverloadConfig, doors: Doors, room: WaitingRoom) -> None:
        self.limit = config.in_flight
        self.length = config.length
        self.seconds = config.wait_seconds
        self.rules = config.rules
        self.doors = doors
        self.room = room

    def has_place(self) -> bool:
        """Whether the gateway may serve one more call."""
        return self.limit is None or self.doors.serving < self.limit


class HeldBack:
    """`Attempts` whose calls wait for their turn."""

    def __init__(self, attempts: Attempts, overload: Overload) -> None:
        self._attempts = attempts
        self._overload = overload

    async def run(self, exchange: Exchange, deliver: Deliver) -> None:
        """See `Attempts.run`."""
        turn = exchange.turn = Turn(self._overload, exchange)
        try:
            await self._attempts.run(exchange, deliver)
        finally:
            turn.close()


class Turn:
    """A call's place, which it has or waits for."""

    __slots__ = ("_exchange", "_overload", "_placed")

    def __init__(self, overload: Overload, exchange: Exchange) -> None:
        self._overload = overload
        self._exchange = exchange
        self._placed = False

    async def advance(self, course: Course) -> Member | None:
        """As `Course.advance`, when it is the call's turn. Raises `GatewayError` 503 when that
        does not come in time. A call that has been elsewhere before and has failed there is not
        told of the wait: then it is None."""
        member = self._begin(course)
        if member is not None or not self._waits(course):
            return member
        begun = course.begun
        try:
            return await self._wait(course)
        except GatewayError:
            if begun:
                return None
            raise

    def close(self) -> None:
        """The call is over: its place is free. Idempotent."""
        if self._placed:
            self._placed = False
            self._overload.doors.serving -= 1
            self._overload.room.freed(PLACE[0])

    def _has_place(self) -> bool:
        subcall = self._exchange.call.subcall is not None
        return self._placed or subcall or self._overload.has_place()

    def _begin(self, course: Course) -> Member | None:
        """Both or nothing."""
        if not self._has_place():
            return None
        member = course.advance()
        if member is None:
            return None
        if not self._placed and self._exchange.call.subcall is None:
            self._placed = True
            self._overload.doors.serving += 1
        if course.ticket is not None:
            course.ticket = Returned(course.ticket, self._overload.room, member.deployment.id)
        return member

    def _waits(self, course: Course) -> bool:
        """Whether a wait is of use: there is no place, or somebody is kept from the call by its
        caps only."""
        return not self._has_place() or course.room_in() is not None

    async def _wait(self, course: Course) -> Member | None:
        exchange, overload = self._exchange, self._overload
        principal, lane = exchange.call.principal, exchange.lane
        assert principal is not None
        assert lane is not None
        priority, weight = standing(overload.rules, principal, lane.model)
        guest = Guest(
            principal.organization_id,
            course.left(),
            scarce=None if self._has_place() else PLACE,
            fits=lambda: self._has_place() and course.possible(),
            begin=lambda: self._begin(course),
            give_back=lambda member: self._give_back(course, member),
            due=lambda: course.room_in() or 1.0,
            priority=priority,
            weight=weight,
        )
        seconds = overload.seconds
        self.close()
        return await overload.room.wait(guest, length=overload.length, seconds=seconds)

    def _give_back(self, course: Course, member: Member) -> None:
        course.leave(member)
        if course.ticket is not None:
            course.ticket.release()
        self.close()


class Returned:
    """A ticket of a deployment's caps; when it is given back, somebody may have been waiting."""

    __slots__ = ("_room", "_slot", "_ticket")

    def __init__(self, ticket: CapTicket, room: WaitingRoom, slot: Hashable) -> None:
        self._ticket = ticket
        self._room = room
        self._slot = slot

    def settle(self, tokens: int) -> None:
        """See `CapTicket`."""
        self._ticket.settle(tokens)
        self._room.freed(self._slot)

    def release(self) -> None:
        """See `CapTicket`."""
        self._ticket.release()
        self._room.freed(self._slot)


def standing(rules: Sequence[QueueRule], principal: Principal, model: Model) -> tuple[int, float]:
    """Priority (0 is the most urgent) and weight of a call in the queue."""
    for rule in rules:
        if _fits(rule, principal, model):
            return PRIORITIES[rule.priority], rule.weight
    return PRIORITIES["normal"], 1.0


def _fits(rule: QueueRule, principal: Principal, model: Model) -> bool:
    if rule.tag and rule.tag not in model.tags:
        return False
    names: dict[str, tuple[str, str]] = {
        level.kind: (level.id, level.name) for level in principal.levels
    }
    wanted: dict[str, Any] = {
        "organization": rule.organization,
        "team": rule.team,
        "user": rule.user,
        "key": rule.key,
    }
    return all(text in names.get(kind, ()) for kind, text in wanted.items() if text)


def held_back(
    attempts: Attempts, config: OverloadConfig, doors: Doors, queue: Queue
) -> Attempts | HeldBack:
    """`attempts` as the configuration wants them."""
    if config.queue == "none" and config.in_flight is None:
        return attempts
    return HeldBack(attempts, Overload(config, doors, doors.room(queue, config.queue)))
