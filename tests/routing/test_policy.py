"""What follows a failure, class by class; `test_policy_histories` has what always holds."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from msgspec.structs import replace

from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.failure import FailureKind, UpstreamFailure
from llmgw_core.domain.rules import CallRules, Rules, Treatments
from llmgw_core.routing.balance import Member
from llmgw_core.routing.course import Course
from llmgw_core.routing.plan import Candidates, Tier
from llmgw_core.routing.policy import (
    REFUSALS,
    CallPolicy,
    Ended,
    Other,
    OtherModel,
    Same,
    Step,
    Stop,
    Surroundings,
)
from llmgw_core.routing.state import DeploymentState, Obstacle, RoutingMemory, standing
from llmgw_core.routing.strategies.round_robin import RoundRobin

KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
ELSEWHERE = [kind for kind in KINDS if kind not in REFUSALS]
RETURNS = ["unavailable", "connect", "cut", "overloaded", "rate_limited", "server"]
CALL = Call("c", "chat.completions", Head("POST", "/v1/chat/completions", ()), 0.0, 0)


def deployment(id: str, **fields: Any) -> Member:
    """One of the model that stands before the slash."""
    made = Deployment(id, id.partition("/")[0], "b", "onprem", "their", **fields)
    return Member(made, DeploymentState(0.0))


def tier(*members: Member) -> Tier:
    model = Model(members[0].deployment.model, tuple(each.deployment for each in members))
    return Tier(model, members, RoundRobin())


class World:
    """A policy and the course that it decides about, at a time that does not move unless told to.
    Nothing of what it decides is done but that the course goes to the next deployment."""

    def __init__(
        self,
        *tiers: Tier,
        larger: tuple[Tier, ...] = (),
        lenient: tuple[Tier, ...] = (),
        deadline: float = 100.0,
        random: float = 0.5,
        **rules: Any,
    ) -> None:
        found = Candidates.of(tiers, (), larger, lenient)
        self.found = replace(found, rules=CallRules(**rules))
        self.keys: set[str] = set()
        self.paid = 0
        self.funds = 100
        self.now = 0.0
        self.memory = RoutingMemory(lambda: self.now)
        for each in (member for tier in found.every_tier() for member in tier.members):
            each.state = self.memory.states[each.deployment.identity] = DeploymentState(0.0)
        self.course = Course(CALL, self.found, self.memory, 0)
        self.first = self.course.advance()
        around = Surroundings(
            next=self.course.next,
            redirect=self.redirect,
            obstacle=lambda each: standing(each.state, self.now),
            another_key=lambda each: each.deployment.id in self.keys,
            pay=self.pay,
            random=lambda: random,
        )
        self.policy = CallPolicy(self.found, deadline, around)

    def block(self, *members: Member, hard: bool = False) -> None:
        for each in members:
            self.memory.put(each.deployment, Obstacle("test", "in the way", hard=hard))

    def redirect(self, found: Candidates) -> None:
        self.course.found = found

    def pay(self) -> bool:
        self.paid += 1
        return self.paid <= self.funds

    def fails(
        self,
        where: Member,
        kind: FailureKind = "server",
        *,
        seconds: float = 0.1,
        after: float | None = None,
        **ended: Any,
    ) -> Step:
        failure = UpstreamFailure(kind, "it failed", status=500, retry_after=after)
        step = self.policy.after(Ended(where, failure, seconds, **ended), self.now)
        if isinstance(step, Other | OtherModel):
            assert self.course.advance() is step.member
        return step


A, B, C = deployment("m/a"), deployment("m/b"), deployment("n/c")


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_another_deployment_comes_first_then_another_model(kind: FailureKind) -> None:
    world = World(tier(A, B), tier(C))
    assert world.fails(A, kind) == Other(B, "another deployment")
    assert world.fails(B, kind) == OtherModel(C, "another model: n")


@pytest.mark.parametrize("kind", KINDS)
def test_alone_it_is_tried_again_only_after_what_may_pass(kind: FailureKind) -> None:
    step = World(tier(A)).fails(A, kind)
    if kind in RETURNS:
        assert isinstance(step, Same)
        assert (step.member, step.pause, step.free) == (A, 0.05, False)
    else:
        assert isinstance(step, Stop)
        assert (step.failure.kind, step.member) == (kind, A)


@pytest.mark.parametrize("kind", ELSEWHERE)
@pytest.mark.parametrize("treatment", ["stop", "elsewhere"])
def test_the_rules_of_a_deployment_say_what_follows(kind: FailureKind, treatment: str) -> None:
    given: dict[str, Any] = {kind: treatment}
    rules = Rules(failures=Treatments(**given))
    strict = deployment("m/a", rules=rules)
    step = World(tier(strict, B)).fails(strict, kind)
    assert isinstance(step, Stop if treatment == "stop" else Other)
    assert isinstance(World(tier(strict)).fails(strict, kind), Stop)


def test_nothing_goes_on_after_the_content_commit() -> None:
    for kind in KINDS:
        step = World(tier(A, B)).fails(A, kind, committed=True, free=True)
        assert isinstance(step, Stop)
        assert step.reason == "content has been handed over"


def test_what_is_the_requests_fault_goes_nowhere() -> None:
    step = World(tier(A, B), tier(C)).fails(A, "client")
    assert isinstance(step, Stop)
    assert step.failure.kind == "client"


def test_asking_again_for_nothing_costs_no_attempt_and_no_pause() -> None:
    world = World(tier(A), attempts=1)
    step = world.fails(A, "cut", free=True)
    assert isinstance(step, Same)
    assert (step.free, step.pause, step.member) == (True, 0.0, A)
    assert world.paid == 0
    assert isinstance(world.fails(A, "cut"), Stop)


def test_the_attempts_of_a_call_are_counted() -> None:
    world = World(tier(A, B), attempts=1)
    step = world.fails(A)
    assert isinstance(step, Stop)
    assert step.reason == "all 1 attempts are used up"


def test_only_what_failed_fast_is_asked_again() -> None:
    rules = Rules(retry_within_ms=200)
    slow = deployment("m/a", rules=rules)
    assert isinstance(World(tier(slow)).fails(slow, seconds=0.2), Same)
    assert isinstance(World(tier(slow)).fails(slow, seconds=0.21), Stop)
    assert isinstance(World(tier(slow, B)).fails(slow, seconds=60.0), Other)


def test_a_deployment_is_asked_again_as_often_as_its_rules_say() -> None:
    for retries in range(4):
        each = deployment("m/a", rules=Rules(retries=retries))
        world = World(tier(each), attempts=10)
        steps = [world.fails(each) for _ in range(retries + 1)]
        assert [type(step) for step in steps] == [Same] * retries + [Stop]


def test_pauses_double_up_to_their_bound_and_are_drawn_in_full() -> None:
    rules = Rules(retries=9, backoff_ms=100, pause_max_ms=1000)
    for random in (0.0, 0.25, 1.0):
        each = deployment("m/a", rules=rules)
        world = World(tier(each), attempts=9, random=random)
        pauses = []
        for _ in range(6):
            step = world.fails(each)
            assert isinstance(step, Same)
            pauses.append(step.pause)
        bounds = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        assert pauses == pytest.approx([random * bound for bound in bounds])


def test_an_upstream_that_asks_for_time_is_given_it_if_it_is_not_too_much() -> None:
    step = World(tier(A)).fails(A, "rate_limited", after=3.0)
    assert isinstance(step, Same)
    assert step.pause == 3.0
    too_long = World(tier(A)).fails(A, "rate_limited", after=6.0)
    assert isinstance(too_long, Stop)
    assert too_long.retry_after == 6.0


def test_whoever_asks_for_more_than_is_left_of_the_deadline_is_not_waited_for() -> None:
    step = World(tier(A), deadline=2.5).fails(A, "rate_limited", after=3.0)
    assert isinstance(step, Stop)
    assert (step.retry_after, step.late) == (3.0, False)
    elsewhere = World(tier(A, B), deadline=2.5).fails(A, "rate_limited", after=3.0)
    assert isinstance(elsewhere, Other)


def test_the_caller_is_told_when_the_first_of_all_is_free_counted_from_now() -> None:
    world = World(tier(A, B))
    world.fails(A, "rate_limited", after=30.0)
    world.now = 10.0
    step = world.fails(B, "rate_limited", after=60.0)
    assert isinstance(step, Stop)
    assert step.retry_after == 20.0


def test_nothing_is_begun_after_the_deadline() -> None:
    world = World(tier(A, B), deadline=5.0)
    world.now = 5.0
    step = world.fails(A, "timeout", seconds=5.0)
    assert isinstance(step, Stop)
    assert (step.late, step.reason) == (True, "the deadline has passed")
    assert isinstance(world.fails(B, "cut", free=True), Stop)


def test_retries_are_paid_only_where_the_upstream_has_had_work() -> None:
    paid = set()
    for kind in KINDS:
        world = World(tier(A, B), tier(C), larger=(tier(C),), lenient=(tier(C),))
        world.fails(A, kind)
        if world.paid:
            paid.add(kind)
    assert paid == {"timeout", "cut", "protocol", "overloaded", "server"}


def test_without_funds_the_call_stops() -> None:
    world = World(tier(A, B))
    world.funds = 0
    step = world.fails(A)
    assert isinstance(step, Stop)
    assert step.reason == "too many calls of the model are tried again already"


def test_those_in_whose_way_something_stands_come_last() -> None:
    world = World(tier(A, B), tier(C))
    world.block(B)
    step = world.fails(A, "connect")
    assert isinstance(step, OtherModel)
    assert step.member == C
    step = world.fails(C, "connect")
    assert isinstance(step, OtherModel)
    assert step.member == B


def test_nobody_goes_where_something_final_stands_in_the_way() -> None:
    world = World(tier(A, B))
    world.block(A, B, hard=True)
    assert isinstance(world.fails(A, "connect"), Stop)


def test_of_those_tried_one_in_whose_way_nothing_stands_is_preferred() -> None:
    world = World(tier(A, B), attempts=9)
    world.fails(A, "connect")
    world.block(A)
    step = world.fails(B, "connect")
    assert isinstance(step, Same)
    assert step.member == B


def test_whoever_is_soonest_ready_is_asked_again() -> None:
    world = World(tier(A, B), attempts=9)
    world.fails(A, "rate_limited", after=4.0)
    step = world.fails(B, "rate_limited", after=2.0)
    assert isinstance(step, Same)
    assert (step.member, step.pause) == (B, 2.0)


def test_another_credential_is_taken_at_once_when_no_other_deployment_is_left() -> None:
    for kind in ("credentials", "rate_limited"):
        world = World(tier(A, B))
        world.keys = {"m/a", "m/b"}
        assert isinstance(world.fails(A, kind, after=60.0), Other)
        step = world.fails(B, kind, after=60.0)
        assert isinstance(step, Same)
        assert (step.pause, step.reason) == (0.0, "with another credential")
        world.keys = set()
        assert isinstance(world.fails(step.member, kind, after=60.0), Stop)


def test_a_request_that_is_too_long_goes_to_larger_models_and_nowhere_else() -> None:
    world = World(tier(A, B), tier(C), larger=(tier(deployment("l/a"), deployment("l/b")),))
    step = world.fails(A, "context_window")
    assert isinstance(step, OtherModel)
    assert step.member.deployment.id == "l/a"
    step = world.fails(step.member, "server")
    assert isinstance(step, Other)
    assert step.member.deployment.id == "l/b"
    stop = world.fails(step.member, "timeout", seconds=9.0)
    assert isinstance(stop, Same)
    assert stop.member.deployment.id == "l/a"


def test_only_windows_that_are_larger_are_tried() -> None:
    small = deployment("m/a", context_window=4096)
    same, wide = deployment("m/b", context_window=4096), deployment("m/c", context_window=8192)
    unknown, less = deployment("m/d"), deployment("l/a", context_window=2048)
    most = deployment("l/b", context_window=16384)
    world = World(tier(small, same, wide, unknown), larger=(tier(less, most),))
    step = world.fails(small, "context_window")
    assert step == Other(wide, "another deployment")
    step = world.fails(wide, "context_window")
    assert step == OtherModel(most, "another model: l")
    stop = world.fails(most, "context_window")
    assert isinstance(stop, Stop)
    assert stop.member == small, "the first refusal is the one of the model that was asked for"


def test_a_refusal_of_content_goes_to_the_configured_models() -> None:
    world = World(tier(A, B), lenient=(tier(C),))
    assert isinstance(world.fails(A, "content_policy"), OtherModel)
    stop = world.fails(C, "timeout", seconds=9.0)
    assert isinstance(stop, Stop)
    assert (stop.failure.kind, stop.member) == ("content_policy", A)


def test_refusals_without_anybody_to_go_to_are_passed_on() -> None:
    for kind in ("context_window", "content_policy"):
        stop = World(tier(A, B), tier(C)).fails(A, kind)
        assert isinstance(stop, Stop)
        assert stop.failure.kind == kind


def test_refused_credentials_speak_only_when_there_is_nothing_else_to_say() -> None:
    world = World(tier(A, B))
    world.fails(A, "timeout", seconds=9.0)
    stop = world.fails(B, "credentials")
    assert isinstance(stop, Stop)
    assert stop.failure.kind == "timeout"
    world = World(tier(A, B))
    world.fails(A, "credentials")
    stop = world.fails(B, "credentials")
    assert isinstance(stop, Stop)
    assert stop.failure.kind == "credentials"


def test_every_step_has_a_reason() -> None:
    for kind in KINDS:
        for tiers in ([tier(A)], [tier(A, B)], [tier(A), tier(C)]):
            assert World(*tiers).fails(A, kind).reason


def test_whoever_cannot_take_a_long_request_is_not_come_back_to() -> None:
    first, small = deployment("m/a"), deployment("m/b", context_window=4096)
    large = deployment("l/a", context_window=8192)
    world = World(tier(first, small), larger=(tier(large),), attempts=9)
    world.fails(first, "cut")
    assert isinstance(world.fails(small, "context_window"), OtherModel)
    step = world.fails(large, "cut")
    assert isinstance(step, Same)
    assert step.member == large
    assert isinstance(world.fails(large, "cut"), Stop)


def test_nobody_comes_back_to_where_something_final_stands_in_the_way() -> None:
    world = World(tier(A), attempts=9)
    world.block(A)
    assert isinstance(world.fails(A, "connect"), Same)
    world = World(tier(A), attempts=9)
    world.block(A, hard=True)
    assert isinstance(world.fails(A, "connect"), Stop)


def test_what_we_ourselves_say_is_not_asked_again() -> None:
    world = World(tier(A))
    failure = UpstreamFailure("unavailable", "it has no price", ours=True)
    assert isinstance(world.policy.after(Ended(A, failure, 0.0), 0.0), Stop)
