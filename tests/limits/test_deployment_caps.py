"""What is sent to one deployment at most, counted in one step with the question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.limits import Limits
from llmgw_core.limits.caps import Caps
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.limits.ticket import Ticket
from llmgw_core.routing import caps as port
from llmgw_core.testing.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator


class Capped:
    def __init__(self, **limits: int) -> None:
        self.clock = FakeClock(1000.0)
        self.limiter = MemoryLimiter(self.clock)
        self.caps = self.of("m/a", **limits)
        self.held: list[port.CapTicket] = []

    def of(self, id: str, /, **limits: Any) -> port.Caps:
        deployment = Deployment(id, "m", "x", "onprem", "m", caps=Limits(**limits))
        found: port.Caps | None = Caps.of(deployment, self.limiter)
        assert found is not None
        return found

    def take(self, tokens: int = 10) -> port.CapTicket:
        ticket = self.caps.take(tokens)
        assert ticket is not None
        self.held.append(ticket)
        return ticket


@pytest.fixture
def capped() -> Iterator[Capped]:
    found = Capped(rpm=2, tpm=100, parallel=2)
    yield found
    for ticket in found.held:
        ticket.release()


def test_it_is_what_routing_asks_for() -> None:
    for asked, given in ((port.Caps, Caps), (port.CapTicket, Ticket)):
        wanted = {name for name in vars(asked) if not name.startswith("_")}
        assert wanted
        assert wanted <= set(dir(given))


def test_without_caps_there_are_none() -> None:
    deployment = Deployment("m/a", "m", "x", "onprem", "m")
    assert Caps.of(deployment, MemoryLimiter(FakeClock())) is None


def test_asking_counts_nothing_and_taking_counts_everything(capped: Capped) -> None:
    assert [capped.caps.full(50) for _ in range(9)] == [None] * 9
    capped.take(50)
    capped.take(50)
    assert capped.caps.full(0) is not None
    assert capped.caps.take(0) is None


@pytest.mark.parametrize(
    ("limits", "tokens", "unit", "reason"),
    [
        ({"rpm": 1}, 1, "requests", "at its cap of 1 requests per minute"),
        ({"tpm": 60}, 40, "tokens", "at its cap of 60 tokens per minute"),
        ({"parallel": 1}, 1, "parallel", "at its cap of 1 calls at the same time"),
    ],
)
def test_what_is_full_is_said(limits: dict[str, int], tokens: int, unit: str, reason: str) -> None:
    capped = Capped(**limits)
    ticket = capped.take(tokens)
    full = capped.caps.full(tokens)
    assert full is not None
    assert full[:2] == (unit, reason)
    assert full[2] == (1.0 if unit == "parallel" else pytest.approx(60.5, abs=0.01))
    ticket.release()
    assert capped.caps.full(tokens) is None


def test_a_refusal_leaves_no_trace_in_the_other_caps(capped: Capped) -> None:
    capped.take(90)
    for _ in range(5):
        assert capped.caps.take(50) is None
    capped.take(10)


def test_what_was_used_counts_and_not_what_was_reserved(capped: Capped) -> None:
    capped.take(90).settle(20)
    assert capped.caps.full(80) is None
    assert capped.caps.full(81) is not None


def test_deployments_are_counted_each_by_itself_and_over_reloads(capped: Capped) -> None:
    capped.take()
    capped.take()
    assert capped.of("m/b", rpm=2).full(1) is None
    assert capped.of("m/a", rpm=2).full(1) is not None
    assert capped.of("m/a", rpm=3).full(1) is None
