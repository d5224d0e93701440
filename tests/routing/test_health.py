"""What breakers put into the routing memory, what is told of it, and what a reload does to them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, get_args

import msgspec
import pytest

from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.failure import FailureKind
from llmgw_core.domain.health import BreakerSettings, HealthChange
from llmgw_core.domain.rules import Rules
from llmgw_core.routing.balance import Member
from llmgw_core.routing.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from llmgw_core.routing.course import Course
from llmgw_core.routing.health import SICKNESS, Health
from llmgw_core.routing.plan import Candidates, Tier
from llmgw_core.routing.state import RoutingMemory
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.wire.request import RequestView

if TYPE_CHECKING:
    from collections.abc import Iterable

CALL = Call("c", "chat.completions", Head("POST", "/v1/chat/completions", ()), 0.0, 0)
FIELDS = msgspec.json.decode(
    b'{"model":"m","messages":[{"role":"user","content":"x"}]}', type=dict[str, msgspec.Raw]
)
CALL.request = RequestView(FIELDS, "chat.completions")
TWO = BreakerSettings(consecutive=2, ejection=10.0, max_ejected=0.5)


class World:
    """A model with a memory, its health and a clock that stands still."""

    def __init__(self, size: int = 3, settings: BreakerSettings = TWO) -> None:
        self.now = 100.0
        self.told: list[HealthChange] = []
        self.memory = RoutingMemory(lambda: self.now)
        self.health = Health(self.memory, lambda: 7, self.told.append)
        self.model = Model("m", tuple(deployment(number, settings) for number in range(size)))
        self.load(self.model)

    def load(self, *models: Model) -> None:
        self.memory.adopt(each for model in models for each in model.deployments)
        self.health.configure(models)

    def retain(self, *models: Model) -> None:
        identities = {each.identity for model in models for each in model.deployments}
        self.health.retain(identities)
        self.memory.retain(identities)

    def breaker(self, which: int) -> Breaker:
        found = self.memory.states[self.model.deployments[which].identity].breaker
        assert found is not None
        return found

    def members(self, *which: int) -> tuple[Member, ...]:
        chosen = [self.model.deployments[number] for number in which]
        return tuple(Member(each, self.memory.states[each.identity]) for each in chosen)

    def begin(self, which: int) -> tuple[Course, Member]:
        """A call for which there is nobody else begins an attempt on this one."""
        found = Candidates.of([Tier(self.model, self.members(which), RoundRobin())])
        course = Course(CALL, found, self.memory, 0)
        member = course.advance()
        assert member is not None
        return course, member

    def end(self, attempt: tuple[Course, Member], kind: FailureKind | None = None) -> None:
        """The attempt ends: with a failure of `kind`, or, None, well."""
        course, member = attempt
        if kind is None:
            course.answered(member, self.now)
        course.leave(member)
        if kind is not None:
            course.failed(member, kind)

    def fail(self, which: int, times: int = 2, kind: FailureKind = "connect") -> None:
        for _ in range(times):
            self.end(self.begin(which), kind)

    def obstacle(self, which: int) -> str:
        found = self.memory.obstacle(self.model.deployments[which], self.now)
        return found.reason if found is not None else ""


def deployment(number: int, settings: BreakerSettings = TWO) -> Deployment:
    rules = Rules(breaker=settings)
    return Deployment(f"m/{number}", "m", "canonical", "onprem", "m", rules=rules)


def again(deployments: Iterable[Deployment], settings: BreakerSettings) -> tuple[Deployment, ...]:
    """The same deployments, as another configuration describes them."""
    rules = Rules(breaker=settings)
    return tuple(msgspec.structs.replace(each, rules=rules) for each in deployments)


@pytest.fixture
def world() -> World:
    return World()


def test_an_ejected_deployment_has_an_obstacle_until_its_time_is_over(world: World) -> None:
    world.fail(0)
    assert world.obstacle(0) == "ejected: 2 failures in a row"
    assert world.obstacle(1) == ""
    world.now = 109.9
    assert world.obstacle(0)
    world.now = 110.0
    assert not world.obstacle(0)


def test_one_on_trial_has_an_obstacle_while_it_has_no_room_for_probes(world: World) -> None:
    world.fail(0)
    world.now = 110.0
    probe = world.begin(0)
    assert world.obstacle(0) == "on trial: 2 failures in a row"
    world.end(probe, "client")
    assert not world.obstacle(0)
    probe = world.begin(0)
    assert world.obstacle(0)
    world.end(probe)
    assert not world.obstacle(0)
    assert world.breaker(0).state is CLOSED


def test_every_change_is_told_counted_and_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llmgw.health")
    world.fail(1)
    world.now = 110.0
    world.end(world.begin(1), "timeout")
    world.now = 130.0
    world.end(world.begin(1))
    assert world.told[0] == HealthChange(
        "m/1", "breaker", "closed", "open", "2 failures in a row", 10.0, 7
    )
    assert [each.after for each in world.told] == [
        "open",
        "half_open",
        "open",
        "half_open",
        "closed",
    ]
    assert world.health.ejections == {"m/1": 2}
    levels = [(record.levelname, record.message) for record in caplog.records]
    assert levels[0] == (
        "WARNING",
        "deployment=m/1 breaker: closed -> open for 10 s: 2 failures in a row",
    )
    assert levels[-1] == (
        "INFO",
        "deployment=m/1 breaker: half_open -> closed: what was tried went well",
    )


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_only_sickness_counts(world: World, kind: FailureKind) -> None:
    world.fail(0, times=50, kind=kind)
    harmless = {"client", "rate_limited", "credentials", "context_window", "content_policy"}
    assert (world.breaker(0).state is OPEN) is (kind not in harmless)
    assert (kind in SICKNESS) is (kind not in harmless)


def test_an_attempt_that_its_client_gave_up_gives_its_place_back(world: World) -> None:
    world.fail(0)
    world.now = 110.0
    breaker = world.breaker(0)
    course, member = world.begin(0)
    assert not breaker.admits(world.now)
    course.leave(member)
    assert breaker.admits(world.now)
    assert breaker.state is HALF_OPEN


def test_an_attempt_that_is_made_again_at_once_is_one(world: World) -> None:
    world.fail(0)
    world.now = 110.0
    course, member = world.begin(0)
    course.leave(member)
    assert course.again(member)
    assert not world.breaker(0).admits(world.now)
    world.end((course, member))
    assert world.breaker(0).state is CLOSED


def test_calls_that_come_together_make_one_probe(world: World) -> None:
    world.fail(0)
    world.now = 110.0
    found = Candidates.of([Tier(world.model, world.members(0, 1, 2), RoundRobin())])
    running = []
    for _ in range(60):
        course = Course(CALL, found, world.memory, 0)
        member = course.advance()
        assert member is not None
        running.append((course, member))
    assert [member.deployment.id for _, member in running].count("m/0") == 1
    for attempt in running:
        world.end(attempt)
    assert world.breaker(0).state is CLOSED


def test_part_of_the_models_pool_stays(world: World) -> None:
    for which in range(3):
        world.fail(which)
    assert [world.breaker(which).state for which in range(3)] == [OPEN, CLOSED, CLOSED]


def test_a_reload_keeps_health_and_takes_the_new_settings(world: World) -> None:
    world.fail(0)
    breaker = world.breaker(0)
    looser = BreakerSettings(consecutive=4, max_ejected=1.0)
    reloaded = Model("m", again(world.model.deployments[:2], looser))
    world.load(reloaded)
    world.retain(reloaded)
    assert world.breaker(0) is breaker
    assert (breaker.state, world.obstacle(0)) == (OPEN, "ejected: 2 failures in a row")
    world.fail(1, times=3)
    assert world.breaker(1).state is CLOSED
    world.fail(1, times=1)
    assert world.breaker(1).state is OPEN, "both of two may be ejected now"


def test_one_that_leaves_makes_room_in_the_pool(world: World) -> None:
    world.fail(0)
    left = Model("m", world.model.deployments[1:])
    world.load(left)
    world.fail(1)
    assert world.breaker(1).state is CLOSED, "the pool is full as long as the old one is there"
    world.retain(left)
    world.fail(1)
    assert world.breaker(1).state is OPEN


def test_who_leaves_is_silent_although_its_last_calls_fail(world: World) -> None:
    running = [world.begin(0) for _ in range(5)]
    left = Model("m", world.model.deployments[1:])
    world.load(left)
    world.retain(left)
    for attempt in running:
        world.end(attempt, "cut")
    assert world.told == []
    assert world.health.ejections == {}


def test_a_breaker_can_be_switched_off_and_on_again(world: World) -> None:
    world.fail(0)
    world.load(Model("m", again(world.model.deployments, BreakerSettings(enabled=False))))
    state = world.memory.states[world.model.deployments[0].identity]
    assert state.breaker is None
    assert not world.obstacle(0)
    world.load(world.model)
    assert world.breaker(0).state is CLOSED
    world.fail(1)
    assert world.breaker(1).state is OPEN, "nobody is left in the pool"


def test_a_model_that_comes_back_begins_with_an_empty_pool(world: World) -> None:
    world.fail(0)
    world.load()
    world.retain()
    world.model = Model("m", tuple(deployment(number) for number in range(2)))
    world.load(world.model)
    world.fail(0)
    assert world.breaker(0).state is OPEN
