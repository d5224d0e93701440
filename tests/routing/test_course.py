"""The way of a call from deployment to deployment: each once, the well ones first, within caps."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.limits import NO_LIMITS, Limits
from llmgw_core.limits.caps import Caps
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.routing.balance import BalancerContext
from llmgw_core.routing.course import FAILURE_SECONDS, Course
from llmgw_core.routing.plan import Candidates, plan
from llmgw_core.routing.state import Obstacle, RoutingMemory, standing
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.rosters import a_call, roster_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmgw_core.domain.failure import FailureKind
    from llmgw_core.limits.ticket import Ticket
    from llmgw_core.routing.balance import Balancer, Member
    from llmgw_core.routing.caps import CapTicket

CALL = a_call()
HELD: list[CapTicket] = []
"""What calls of a test hold of caps."""


@pytest.fixture(autouse=True)
def calls_end() -> Iterator[None]:
    """Calls that a test has left under way end with it."""
    yield
    while HELD:
        HELD.pop().release()


class Watched(Caps):
    def take(self, tokens: int) -> Ticket | None:
        ticket = super().take(tokens)
        if ticket is not None:
            HELD.append(ticket)
        return ticket


class Field:
    """Deployments of one model by (priority, caps), and calls among them."""

    def __init__(
        self, *given: tuple[int, Limits], balancer: Balancer | None = None, tokens: int = 10
    ) -> None:
        self.clock = FakeClock(1000.0)
        self.memory = RoutingMemory(self.clock)
        self.tokens = tokens
        deployments = tuple(
            Deployment(f"m/{n}", "m", "canonical", "eu", "m", priority=priority, caps=caps)
            for n, (priority, caps) in enumerate(given)
        )
        self.deployments = deployments
        model = Model("m", deployments)
        roster = roster_of({"m": model}, balancer or RoundRobin(), self.memory)
        limiter = MemoryLimiter(self.clock)
        for deployment in deployments:
            roster.members[deployment.id].caps = Watched.of(deployment, limiter)
        self.members = list(roster.members.values())
        self.found = Candidates.of(roster.tiers(model, deployments))

    def course(self) -> Course:
        return Course(CALL, self.found, self.memory, self.tokens)

    def way(self) -> str:
        """Where a call goes that fails everywhere."""
        course, way = self.course(), ""
        while (member := course.advance()) is not None:
            way += member.deployment.id[-1]
            course.leave(member)
            if course.ticket is not None:
                course.ticket.release()
        return way

    def planned(self) -> str:
        rounds = plan(CALL, self.found, self.memory, self.tokens)
        return "".join(each.id[-1] for round in rounds for each in round.ordered(CALL))


FREE = (0, NO_LIMITS)
obstacles = st.sampled_from(
    [
        None,
        None,
        Obstacle("breaker", "ejected", until=1005.0),
        Obstacle("cooldown", "429", until=1001.0),
        Obstacle("switch", "off", hard=True),
        Obstacle("breaker", "over", until=999.0),
    ]
)
caps = st.sampled_from([NO_LIMITS, NO_LIMITS, Limits(parallel=1), Limits(rpm=2), Limits(tpm=25)])
fields = st.lists(st.tuples(st.integers(0, 2), caps, obstacles), min_size=1, max_size=7)


def field_of(
    given: Sequence[tuple[int, Limits, Obstacle | None]], name: str, seed: int, used: int
) -> Field:
    """A field in which some calls are under way already."""
    make = BALANCERS[name]
    kind: Any = getattr(make, "Options", None)
    context = BalancerContext(kind() if kind else None, random=Random(seed))
    field = Field(*((priority, caps) for priority, caps, _ in given), balancer=make(context))
    for deployment, (_, _, obstacle) in zip(field.deployments, given, strict=True):
        if obstacle is not None:
            field.memory.put(deployment, obstacle)
    for _ in range(used):
        field.course().advance()
    return field


@given(fields, st.sampled_from(sorted(BALANCERS)), st.integers(0, 99), st.integers(0, 6))
def test_the_first_attempt_is_where_the_plan_says_and_looking_changes_nothing(
    given: list[tuple[int, Limits, Obstacle | None]], name: str, seed: int, used: int
) -> None:
    field = field_of(given, name, seed, used)
    field.memory.sweep(field.clock())
    planned = field.planned()
    assert field.planned() == planned
    member = field.course().advance()
    assert (member.deployment.id[-1] if member else "") == planned[:1]


@given(fields, st.sampled_from(sorted(BALANCERS)), st.integers(0, 99), st.integers(0, 6))
def test_nobody_is_tried_twice_and_nobody_ill_while_somebody_well_is_untried(
    given: list[tuple[int, Limits, Obstacle | None]], name: str, seed: int, used: int
) -> None:
    field = field_of(given, name, seed, used)
    course = field.course()
    tried: list[Member] = []
    while True:
        now = field.clock()
        well = [
            member
            for member in field.members
            if standing(member.state, now) is None
            and (member.caps is None or member.caps.full(field.tokens) is None)
            and member not in tried
        ]
        member = course.advance()
        if member is None:
            assert not well
            break
        assert member not in tried
        if well:
            assert member in well
            first = min(each.deployment.priority for each in well)
            assert member.deployment.priority == first
        else:
            obstacle = standing(member.state, now)
            assert obstacle is None or not obstacle.hard
        course.leave(member)
        tried.append(member)


@given(fields, st.lists(st.sampled_from(["call", "end", "fail", "later"]), max_size=60))
def test_no_cap_is_ever_exceeded(
    given: list[tuple[int, Limits, Obstacle | None]], steps: list[str]
) -> None:
    field = field_of(given, "least_outstanding", 1, 0)
    running: list[tuple[Course, Member, Any]] = []
    admitted: dict[Member, list[float]] = {member: [] for member in field.members}
    for step in steps:
        if step == "call":
            course = field.course()
            if (member := course.advance()) is not None:
                running.append((course, member, course.ticket))
                admitted[member].append(field.clock())
        elif step == "later":
            field.clock.now += 17.0
        elif running:
            course, member, ticket = running.pop(0)
            course.leave(member)
            if ticket is not None:
                ticket.settle(field.tokens)
            if step == "fail" and (other := course.advance()) is not None:
                running.append((course, other, course.ticket))
                admitted[other].append(field.clock())
        for member in field.members:
            limits = member.deployment.caps
            recent = sum(1 for at in admitted[member] if at > field.clock() - 60.0)
            assert limits.rpm is None or recent <= limits.rpm
            assert limits.tpm is None or recent * field.tokens <= limits.tpm
            assert limits.parallel is None or member.state.in_flight <= limits.parallel


def test_lower_numbers_of_priority_come_first_and_the_others_when_they_are_full() -> None:
    field = Field((1, NO_LIMITS), (0, Limits(parallel=1)), (0, NO_LIMITS), (7, NO_LIMITS))
    assert field.planned() == "1203"
    assert sorted(field.way()[:2]) == ["1", "2"]
    field.members[2].state.obstacles["switch"] = Obstacle("switch", "off", hard=True)
    field.memory.put(field.deployments[2], Obstacle("switch", "off", hard=True))
    first, second = field.course(), field.course()
    assert [course.advance() for course in (first, second)] == [field.members[1], field.members[0]]


def test_among_those_that_are_ejected_the_one_that_is_soonest_free_is_the_last_resort() -> None:
    field = Field(FREE, FREE, FREE)
    for number, deployment in enumerate(field.deployments):
        field.memory.put(deployment, Obstacle("breaker", "ejected", until=1010.0 - number))
    assert (field.planned(), field.way()) == ("2", "210")
    field.memory.clear(field.deployments[0], "breaker")
    assert (field.planned(), field.way()) == ("02", "021")


def test_caps_hold_also_for_the_last_resort() -> None:
    field = Field((0, Limits(parallel=1)))
    field.memory.put(field.deployments[0], Obstacle("breaker", "ejected", until=1010.0))
    assert field.course().advance() is field.members[0]
    assert field.course().advance() is None


def test_how_long_it_takes_until_a_cap_has_room_is_known() -> None:
    field = Field((0, Limits(rpm=1)), (0, Limits(rpm=1, parallel=5)), (0, Limits(parallel=1)))
    for _ in range(3):
        assert field.course().advance() is not None
        field.clock.now += 10.0
    course = field.course()
    assert course.advance() is None
    assert len(course.obstacles().split("; ")) == 3
    assert course.room_in() == 1.0  # a guess: nobody knows when a call ends
    field.memory.put(field.deployments[2], Obstacle("switch", "off", hard=True))
    assert course.room_in() == pytest.approx(30.5, abs=0.01)
    for deployment in field.deployments:
        field.memory.put(deployment, Obstacle("switch", "off", hard=True))
    assert course.room_in() is None
    assert course.obstacles() == "; ".join(f"{each.id}: off" for each in field.deployments)


def test_another_attempt_on_the_same_deployment_counts_anew_unless_nothing_was_used() -> None:
    field = Field((0, Limits(parallel=1)))
    course = field.course()
    member = course.advance()
    assert member is not None
    course.leave(member)
    held = course.ticket
    assert course.again(member)
    assert course.ticket is held  # nothing was used, so it holds on to what it has
    course.leave(member)
    assert held is not None
    held.settle(5)
    assert course.again(member, booked=True)
    assert course.ticket is not held
    course.leave(member)
    assert course.ticket is not None
    course.ticket.settle(5)
    assert field.course().advance() is member
    assert not course.again(member, booked=True)
    assert member.state.in_flight == 1


def test_without_caps_the_same_deployment_always_has_room() -> None:
    field = Field(FREE)
    course = field.course()
    member = course.advance()
    assert member is not None
    course.leave(member)
    assert course.again(member)


def test_a_call_that_needs_more_tokens_than_the_whole_cap_takes_all_of_it() -> None:
    field = Field((0, Limits(tpm=100)), tokens=5000)
    assert field.course().advance() is field.members[0]
    assert field.course().advance() is None
    field.clock.now += 61.0
    assert field.course().advance() is field.members[0]


def test_nothing_to_choose_from_is_nobody() -> None:
    field = Field(FREE)
    course = Course(CALL, Candidates.of(()), field.memory, 0)
    assert course.advance() is None
    assert course.room_in() is None
    assert course.obstacles() == ""


def test_answers_are_remembered_by_their_kind() -> None:
    field = Field(FREE)
    course = field.course()
    member = course.advance()
    assert member is not None
    course.answered(member, 1000.7)
    assert member.state.latency == pytest.approx(0.7)
    assert member.state.complete.seconds is None
    whole = a_call(b'{"model":"m","messages":[{}]}')
    course = Course(whole, field.found, field.memory, 0)
    member = course.advance()
    assert member is not None
    course.answered(member, 1003.0)
    assert member.state.complete.seconds == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [("connect", FAILURE_SECONDS), ("server", 7.0), ("rate_limited", None), ("client", None)],
)
def test_who_fails_fast_is_not_taken_for_fast(kind: FailureKind, seconds: float | None) -> None:
    field = Field(FREE)
    course = field.course()
    member = course.advance()
    assert member is not None
    field.clock.now += 7.0 if kind == "server" else 0.001
    course.failed(member, kind)
    assert member.state.first_content.seconds == seconds
    assert member.state.complete.seconds == seconds
