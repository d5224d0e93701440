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
    from collections.abc import Callable, Hashable, Iterable, Sequence

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
        self.clock = clock
        self._stats = stats
        self._rooms: dict[int, tuple[Queue, WaitingRoom]] = {}

    def room(self, queue: Queue, name: str) -> WaitingRoom:
        """The room of `queue`, the same as long as the queue is."""
        known = self._rooms.get(id(queue))
        if known is None:
            room = WaitingRoom(queue, name, clock=self.clock, stats=self._stats)
            known = self._rooms[id(queue)] = queue, room
        return known[1]

    def retain(self, queues: Iterable[object]) -> None:
        """Forget the rooms of all others than these. Who still waits in one keeps it."""
        alive = {id(queue) for queue in queues}
        self._rooms = {key: kept for key, kept in self._rooms.items() if key in alive}


class Overload:
    """What one configuration says about it."""

    def __init__(self, config: OverloadConfig, doors: Doors, room: WaitingRoom) -> None:
        self.limit = config.in_flight
        self.length = config.length
        self.seconds = config.wait_seconds
        self.rules = config.rules
        self.waits = config.queue != "none"
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
            exchange.turn = None  # a reference cycle otherwise


class Turn:
    """A call's place, which it has or waits for."""

    __slots__ = ("_exchange", "_overload", "_placed")

    def __init__(self, overload: Overload, exchange: Exchange) -> None:
        self._overload = overload
        self._exchange = exchange
        self._placed = False

    async def advance(self, course: Course) -> Member | None:
        """As `Course.advance`, when it is the call's turn. Raises `GatewayError` 503 when that
        does not come in time; but who has been elsewhere before hears what came of that: then it
        is None."""
        member = self._begin(course)
        if member is not None or (self._has_place() and course.room_in() is None):
            return member
        guest = self._guest(
            course,
            course.left(),
            fits=course.possible,
            begin=lambda: self._begin(course),
            due=lambda: course.room_in() or 1.0,
        )
        return await self._wait(guest, quiet=course.begun)

    async def again(self, course: Course, member: Member) -> Member | None:
        """As `Course.resume`, when there is a slot for the call once more; None when that does not
        come in time."""

        def begin() -> Member | None:
            return self._taken(course, course.resume(member))

        found = begin()
        if found is not None or course.barred(member):
            return found
        guest = self._guest(
            course,
            (member.deployment.id, *course.left()),
            fits=lambda: course.possible() or course.free(member),
            begin=begin,
        )
        return await self._wait(guest, quiet=True)

    def next(self, course: Course) -> Member | None:
        """Whom `advance` would take now, or else one of those that it would wait for."""
        return course.next() or (course.busy(self._seconds()) if self._overload.waits else None)

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
        """A place and a slot, or neither."""
        return self._taken(course, course.advance()) if self._has_place() else None

    def _taken(self, course: Course, member: Member | None) -> Member | None:
        if member is None:
            return None
        if not self._placed and self._exchange.call.subcall is None:
            self._placed = True
            self._overload.doors.serving += 1
        if course.ticket is not None:
            course.ticket = Returned(course.ticket, self._overload.room, member.deployment.id)
        return member

    def _guest(
        self,
        course: Course,
        slots: tuple[str, ...],
        *,
        fits: Callable[[], bool],
        begin: Callable[[], Member | None],
        due: Callable[[], float] = lambda: 1.0,
    ) -> Guest[Member]:
        principal, lane = self._exchange.call.principal, self._exchange.lane
        assert principal is not None
        assert lane is not None
        priority, weight = standing(self._overload.rules, principal, lane.model)
        return Guest(
            principal.organization_id,
            slots,
            scarce=None if self._has_place() else PLACE,
            fits=lambda: self._has_place() and fits(),
            begin=begin,
            give_back=lambda member: self._give_back(course, member),
            due=due,
            priority=priority,
            weight=weight,
        )

    def _seconds(self) -> float:
        """How long the call may wait, from now on."""
        overload, deadline = self._overload, self._exchange.call.deadline
        if not deadline:
            return overload.seconds
        return min(overload.seconds, max(0.0, deadline - overload.doors.clock()))

    async def _wait(self, guest: Guest[Member], *, quiet: bool) -> Member | None:
        overload, seconds = self._overload, self._seconds()
        self.close()  # who waits holds nobody up
        try:
            return await overload.room.wait(guest, length=overload.length, seconds=seconds)
        except GatewayError:
            if quiet:
                return None
            raise

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
