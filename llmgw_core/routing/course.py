"""The way of one call from deployment to deployment.

Rule of this file: to choose, to count against the caps and to tell the balancer is one step without
any waiting, so no other call comes in between. Whom a call goes to is what `plan` says at that
moment, without those that it has tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.domain.call import State
from llmgw_core.routing.breaker import UNCOUNTED
from llmgw_core.routing.health import SICKNESS
from llmgw_core.routing.plan import plan
from llmgw_core.routing.state import standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.failure import FailureKind
    from llmgw_core.routing.balance import Member
    from llmgw_core.routing.breaker import Breaker
    from llmgw_core.routing.caps import CapTicket
    from llmgw_core.routing.plan import Candidates
    from llmgw_core.routing.state import RoutingMemory

FAILURE_SECONDS: Final = 5.0
"""So long an answer takes, for the estimate, that does not come."""


class Course(State):
    """`advance` or `again` begins an attempt, `leave` ends it. `ticket` is what the running attempt
    holds of the caps of its deployment, to be settled by whoever knows what it has used. `tokens`
    is what the call may use."""

    _call: Call
    found: Candidates
    """Among whom `advance` chooses."""
    _memory: RoutingMemory
    _tokens: int
    ticket: CapTicket | None = None
    trial: Callable[[], None] | None = None
    """To be called with the first content, when the running attempt is made on trial."""
    _tried: tuple[Member, ...] = ()
    began: float = 0.0
    """When the running attempt did, of the memory's clock."""
    _breaker: Breaker | None = None
    _term: int = UNCOUNTED

    @property
    def begun(self) -> bool:
        """Whether there has been an attempt."""
        return bool(self._tried)

    def left(self) -> tuple[str, ...]:
        """The ids of those that have not been tried."""
        tried = self._tried
        members = (member for tier in self.found.tiers for member in tier.members)
        return tuple(member.deployment.id for member in members if member not in tried)

    def busy(self, seconds: float) -> Member | None:
        """The first of those that have not been tried, are kept from the call by their caps only,
        and may have room within `seconds`."""
        now = self._memory.clock()
        for tier in self.found.tiers:
            for member in tier.members:
                if member.caps is None or member in self._tried:
                    continue
                full = member.caps.full(self._tokens)
                if full is None or standing(member.state, now) is not None:
                    continue
                if full[0] == "parallel" or full[2] <= seconds:  # nobody knows when a call ends
                    return member
        return None

    def free(self, member: Member) -> bool:
        """Whether `again` would begin an attempt on `member` now."""
        full = member.caps is not None and member.caps.full(self._tokens) is not None
        return not full and not self.barred(member)

    def barred(self, member: Member) -> bool:
        """Whether nothing may be sent to `member` any more, for now: somebody has switched it
        off."""
        obstacle = standing(member.state, self._memory.clock())
        return obstacle is not None and obstacle.hard

    def possible(self) -> bool:
        """Whether `advance` would begin an attempt now."""
        rounds = plan(self._call, self.found, self._memory, self._tokens, self._tried)
        return any(round.eligible or round.late for round in rounds)

    def advance(self) -> Member | None:
        """Begin an attempt on the next deployment; None when there is none left."""
        tiers = self.found.tiers
        if self._tried or self._memory.troubled or not tiers or tiers[0].capped:
            return self._look_for()
        # What `plan` says here, without making a plan: everybody of the first tier.
        members = tiers[0].members
        if len(members) == 1:
            member = members[0]
        else:
            balancer = tiers[0].balancer
            member = balancer.pick(self._call, members)
            balancer.took(self._call, member, members)
        return self._begin(member)

    def next(self) -> Member | None:
        """Whom `advance` would take now."""
        self._memory.sweep(self._memory.clock())
        for round in plan(self._call, self.found, self._memory, self._tokens, self._tried):
            for member, _ in round.picks(self._call):
                return member
        return None

    def again(self, member: Member, *, booked: bool = False) -> bool:
        """Begin another attempt on `member`; False when its caps have no room for it, or when it is
        switched off by now. What the one before holds of them is held on, unless it has been
        `booked`."""
        if self.barred(member):
            return False
        if (booked or self.ticket is None) and not self._holds(member):
            return False
        self._begin(member)
        return True

    def resume(self, member: Member) -> Member | None:
        """After a pause: begin an attempt on whoever has not been tried and can take the call by
        now, else on `member` again; None when that cannot either."""
        return self.advance() or (member if self.again(member, booked=True) else None)

    def leave(self, member: Member) -> None:
        """The running attempt has ended."""
        state = member.state
        state.in_flight -= 1
        state.tokens_in_flight -= self._tokens
        self.trial = None  # a reference cycle otherwise
        breaker = self._breaker
        if breaker is not None and not breaker.closed:
            # Unless it is said what came of it, it says nothing.
            breaker.abandoned(self._term)

    def answered(
        self, member: Member, first_content: float, cut: FailureKind | None = None
    ) -> None:
        """The attempt went well, with its first content at that time; or, with `cut`, until its
        stream broke in this way."""
        if cut is not None:
            self.failed(member, cut)
            return
        state = member.state
        known = state.first_content if self._call.request.stream else state.complete
        known.observe(first_content - self.began, first_content)
        if self._breaker is not None:
            self._breaker.succeeded(self._term, first_content)
            self._term = UNCOUNTED

    def failed(self, member: Member, kind: FailureKind) -> None:
        """The attempt has failed. Who fails fast is not fast: a failure that says something about
        the deployment counts as an answer that took long."""
        if kind in SICKNESS:
            now, state = self._memory.clock(), member.state
            seconds = max(now - self.began, FAILURE_SECONDS)
            state.first_content.observe(seconds, now)
            state.complete.observe(seconds, now)
            if self._breaker is not None:
                self._breaker.failed(self._term, now)

    def room_in(self) -> float | None:
        """Seconds until one of those that are only kept from the call by their caps may have room
        for it; None when there is none of them."""
        now, waits = self._memory.clock(), []
        for tier in self.found.tiers:
            for member in tier.members:
                if member.caps is None or member in self._tried:
                    continue
                full = member.caps.full(self._tokens)
                obstacle = standing(member.state, now)
                if full is not None and not (obstacle and obstacle.hard):
                    waits.append(full[2])
        return min(waits, default=None)

    def held_back(self, model: str) -> bool:
        """Whether none of the deployments of `model` may be tried because we say so: a plugin has
        left none among the candidates, or operators have switched them off."""
        now = self._memory.clock()
        members = [
            member
            for tier in self.found.tiers
            if tier.model.name == model
            for member in tier.members
        ]
        standings = [standing(member.state, now) for member in members]
        return all(obstacle is not None and obstacle.hard for obstacle in standings)

    def obstacles(self) -> str:
        """What keeps each of those from the call that were not tried, for operators."""
        now, reasons = self._memory.clock(), []
        for tier in self.found.tiers:
            for member in tier.members:
                if member in self._tried:
                    continue
                obstacle = standing(member.state, now)
                full = None if member.caps is None else member.caps.full(self._tokens)
                reason = obstacle.reason if obstacle else full[1] if full else ""
                if reason:
                    reasons.append(f"{member.deployment.id}: {reason}")
        return "; ".join(reasons)

    def _look_for(self) -> Member | None:
        call, memory = self._call, self._memory
        memory.sweep(memory.clock())
        for round in plan(call, self.found, memory, self._tokens, self._tried):
            for member, among in round.picks(call):
                if self._holds(member):
                    round.took(call, member, among)
                    return self._begin(member)
        return None

    def _holds(self, member: Member) -> bool:
        """Count the call against the caps of `member`, unless there is no room."""
        self.ticket = None
        if member.caps is not None:
            self.ticket = member.caps.take(self._tokens)
            return self.ticket is not None
        return True

    def _begin(self, member: Member) -> Member:
        self._tried = (*self._tried, member) if self._tried else (member,)
        state = member.state
        state.in_flight += 1
        state.tokens_in_flight += self._tokens
        self.began = now = self._memory.clock()
        self._breaker = breaker = state.breaker
        self.trial = None
        if breaker is not None:
            self._term = breaker.term
            if not breaker.closed:
                # Whoever is chosen although it is ejected is tried because there is nobody else.
                self._term = breaker.enter(now, forced=True)
                self.trial = self._proved
        return member

    def _proved(self) -> None:
        """A deployment on trial has given content, and need not wait for the end of its stream.
        What comes after speaks for or against it as with any other."""
        breaker = self._breaker
        if breaker is not None:
            breaker.succeeded(self._term, self._memory.clock())
            self._term = breaker.term if breaker.closed else UNCOUNTED
