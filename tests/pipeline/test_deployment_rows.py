"""The word for how a deployment is, whatever stands in its way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.health import BreakerSettings
from llmgw_core.domain.load import EngineLoad
from llmgw_core.pipeline.deployment_rows import DeploymentRow, LoadReport, deployment_rows
from llmgw_core.pipeline.switchboard import DEPLOYMENT_OFF
from llmgw_core.routing.balance import Member
from llmgw_core.routing.breaker import Breaker, Pool
from llmgw_core.routing.state import Obstacle, RoutingMemory

if TYPE_CHECKING:
    from llmgw_core.routing.caps import CapTicket, Full

NOW = 100.0
ONE = Deployment(id="m/a", model="m", backend="nothing", zone="eu", upstream_model="x", weight=3)


class Crowded:
    """Caps without room."""

    def full(self, tokens: int) -> Full:
        return ("requests", "at its limit of 2 requests a minute", 7.0)

    def take(self, tokens: int) -> CapTicket | None:
        return None


class Case:
    """One deployment and what is remembered of it."""

    def __init__(self) -> None:
        self.now = NOW
        self.memory = RoutingMemory(lambda: self.now)
        self.memory.adopt([ONE])
        self.memory.begin()
        self.state = self.memory.states[ONE.identity]
        self.member = Member(ONE, self.state)

    def row(self) -> DeploymentRow:
        (row,) = deployment_rows([self.member], self.memory)
        return row


def test_one_in_whose_way_nothing_stands_is_healthy() -> None:
    case = Case()
    case.state.in_flight, case.state.tokens_in_flight = 2, 300
    case.state.first_content.observe(0.25, NOW)
    row = case.row()
    assert row == DeploymentRow(
        deployment="m/a",
        model="m",
        backend="nothing",
        zone="eu",
        weight=3,
        priority=ONE.priority,
        state="healthy",
        in_flight=2,
        tokens_in_flight=300,
        first_content=0.25,
    )


@pytest.mark.parametrize(
    ("kind", "word"),
    [("probe", "not ready"), ("load", "busy"), ("something else", "something else")],
)
def test_an_obstacle_has_a_word_a_reason_and_an_end(kind: str, word: str) -> None:
    case = Case()
    case.memory.put(ONE, Obstacle(kind, "why", NOW + 5))
    row = case.row()
    assert (row.state, row.reason, row.seconds, row.reasons) == (word, "why", 5.0, ("why",))
    case.now = NOW + 5
    assert case.row().state == "healthy"


def test_of_several_the_hard_one_counts_and_all_are_told() -> None:
    case = Case()
    case.memory.put(ONE, Obstacle("probe", "asleep", math.inf))
    case.memory.put(ONE, Obstacle(DEPLOYMENT_OFF, "off", NOW + 5, hard=True))
    row = case.row()
    assert (row.state, row.seconds, row.reasons) == ("switched off", 5.0, ("off", "asleep"))
    case.memory.clear(ONE, DEPLOYMENT_OFF)
    assert case.row().seconds is None


def test_a_breaker_is_open_and_then_half_open() -> None:
    case = Case()
    settings = BreakerSettings(consecutive=1, ejection=10.0, max_ejected=1.0)
    breaker = case.state.breaker = Breaker(settings, Pool(1), NOW)
    breaker.failed(breaker.term, NOW)
    case.memory.put(ONE, Obstacle("breaker", "ejected: it failed", breaker.until))
    assert (case.row().state, case.row().seconds, case.row().ejections) == ("ejected", 10.0, 1)
    case.now = breaker.until
    breaker.enter(case.now)
    case.memory.put(ONE, Obstacle("breaker", "on trial: it failed"))
    assert (case.row().state, case.row().seconds) == ("half-open", None)


def test_one_whose_caps_have_no_room_is_at_cap() -> None:
    case = Case()
    case.member.caps = Crowded()
    row = case.row()
    assert (row.state, row.reason, row.seconds) == (
        "at cap",
        "at its limit of 2 requests a minute",
        7.0,
    )


def test_one_that_comes_back_ramps_up() -> None:
    case = Case()
    case.memory.put(ONE, Obstacle("breaker", "ejected", NOW + 50))
    case.memory.clear(ONE, "breaker")
    case.now += case.memory.ramp.seconds / 2
    row = case.row()
    assert row.state == "ramping"
    assert 0 < row.share < 1
    assert row.reason == f"it gets {row.share:.0%} of its turns"
    case.now += case.memory.ramp.seconds
    assert (case.row().state, case.row().share) == ("healthy", 1.0)


def test_the_engine_s_report_has_an_age() -> None:
    case = Case()
    case.state.load = EngineLoad(1, 2, None, NOW - 3)
    assert case.row().load == LoadReport(1, 2, None, 3.0)
