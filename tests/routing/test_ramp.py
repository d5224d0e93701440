"""New and recovered deployments come into use slowly, and never so that nobody is left."""

from __future__ import annotations

from collections import Counter

import pytest

from llmgw_core.domain.deployment import Deployment, Model
from llmgw_core.domain.ramp import Ramp
from llmgw_core.routing.course import Course
from llmgw_core.routing.plan import Candidates, plan
from llmgw_core.routing.state import Obstacle, RoutingMemory
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.rosters import a_call, roster_of

CALL = a_call()


class Crowd:
    """Three deployments in turns; the third may be new."""

    def __init__(self, *, new: int = 0) -> None:
        self.clock = FakeClock(1000.0)
        self.memory = RoutingMemory(self.clock)
        self.model = Model(
            "m", tuple(Deployment(f"m/{n}", "m", "canonical", "eu", "m") for n in range(3))
        )
        if new < 3:
            self.memory.adopt(self.model.deployments[: 3 - new])
            self.memory.begin()
        roster = roster_of({"m": self.model}, RoundRobin(), self.memory)
        self.found = Candidates.of(roster.tiers(self.model, self.model.deployments))

    def shares(self, calls: int = 300) -> list[float]:
        picks = Counter(self.pick() for _ in range(calls))
        return [picks[each.id] / calls for each in self.model.deployments]

    def pick(self) -> str:
        rounds = plan(CALL, self.found, self.memory)
        planned = next(each for round in rounds for each in round.ordered(CALL))
        course = Course(CALL, self.found, self.memory, 0)
        member = course.advance()
        assert member is not None
        assert member.deployment is planned
        course.leave(member)
        return member.deployment.id


def test_the_share_grows_evenly_from_its_start_to_all() -> None:
    ramp = Ramp(seconds=20.0, start=0.2)
    shares = [ramp.share(100.0, 100.0 + seconds) for seconds in (0, 2, 4, 10, 19, 20, 50)]
    assert shares == pytest.approx([0.2, 0.2, 0.2, 0.5, 0.95, 1.0, 1.0])
    assert Ramp(seconds=0.0).share(100.0, 100.0) == 1.0


def test_the_first_deployments_of_a_gateway_do_not_ramp() -> None:
    assert Crowd().shares() == pytest.approx([1 / 3] * 3, abs=0.01)


def test_a_new_one_is_a_candidate_for_a_growing_share_of_the_calls() -> None:
    crowd = Crowd(new=1)
    assert crowd.shares()[2] == pytest.approx(0.1 / 3, abs=0.01)
    crowd.clock.now += 15.0
    assert crowd.shares()[2] == pytest.approx(0.5 / 3, abs=0.02)
    crowd.clock.now += 15.0
    assert crowd.shares()[2] == pytest.approx(1 / 3, abs=0.02)
    assert not crowd.memory.troubled


def test_a_new_one_takes_a_call_that_nobody_else_can_take() -> None:
    crowd = Crowd(new=1)
    course = Course(CALL, crowd.found, crowd.memory, 0)
    ids = [member.deployment.id for _ in range(3) if (member := course.advance())]
    assert ids[2] == "m/2"
    assert course.advance() is None


def test_where_all_are_new_nobody_waits() -> None:
    crowd = Crowd(new=2)
    (healthy, *_) = crowd.model.deployments
    crowd.memory.put(healthy, Obstacle("switch", "off", hard=True))
    assert crowd.shares() == pytest.approx([0.0, 0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("kind", ["breaker", "probe"])
def test_who_was_ill_and_is_well_again_ramps_up(kind: str) -> None:
    crowd = Crowd()
    third = crowd.model.deployments[2]
    crowd.memory.put(third, Obstacle(kind, "ill"))
    assert crowd.shares()[2] == 0.0
    crowd.memory.clear(third, kind)
    assert crowd.shares()[2] == pytest.approx(0.1 / 3, abs=0.01)


def test_an_illness_that_is_over_by_the_clock_is_followed_by_a_ramp_too() -> None:
    crowd = Crowd()
    crowd.memory.put(crowd.model.deployments[2], Obstacle("breaker", "ejected", until=1010.0))
    crowd.clock.now = 1025.0
    assert crowd.shares()[2] == pytest.approx(0.5 / 3, abs=0.02)


def test_who_was_throttled_or_switched_off_is_back_at_once() -> None:
    crowd = Crowd()
    third = crowd.model.deployments[2]
    for kind in ("cooldown", "switch"):
        crowd.memory.put(third, Obstacle(kind, "not now"))
        crowd.memory.clear(third, kind)
        crowd.memory.put(third, Obstacle(kind, "not now", until=crowd.clock.now))
        assert crowd.shares()[2] == pytest.approx(1 / 3, abs=0.01)


def test_without_a_ramp_everybody_is_back_at_once() -> None:
    crowd = Crowd()
    crowd.memory.ramp = Ramp(seconds=0.0)
    third = crowd.model.deployments[2]
    crowd.memory.put(third, Obstacle("breaker", "ejected"))
    crowd.memory.clear(third, "breaker")
    assert not crowd.memory.troubled
    assert crowd.shares()[2] == pytest.approx(1 / 3, abs=0.01)


def test_what_was_forgotten_before_it_began_never_begins() -> None:
    memory = RoutingMemory(FakeClock())
    memory.begin()
    gone = Deployment("m/0", "m", "canonical", "eu", "m")
    memory.adopt([gone])
    memory.retain(())
    memory.begin()
    memory.forget_turns([gone])
    assert (memory.states, memory.troubled) == ({}, {})
