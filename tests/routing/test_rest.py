from __future__ import annotations

from typing import Any

import pytest

from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.failure import FailureKind, UpstreamFailure
from llmgw_core.domain.rules import Rules
from llmgw_core.routing.rest import another_key, leave_alone, ring_of
from llmgw_core.routing.state import RoutingMemory

RULES = Rules(cooldown_seconds=2.0, cooldown_max_seconds=60.0, credential_rest_seconds=300.0)


class World:
    """One deployment with its credentials, in a memory whose clock stands still."""

    def __init__(self, *secrets: str) -> None:
        self.now = 0.0
        self.memory = RoutingMemory(lambda: self.now)
        self.credentials = tuple(map(Credential, secrets))
        self.deployment = Deployment(
            "m/a",
            "m",
            "b",
            "onprem",
            "their",
            credential=self.credentials[0],
            credentials=self.credentials if len(secrets) > 1 else (),
            rules=RULES,
        )
        self.memory.adopt([self.deployment])

    def fails(self, kind: FailureKind, status: int, which: int = 0, **failure: Any) -> None:
        credential = self.credentials[which]
        said = UpstreamFailure(kind, "", status=status, **failure)
        leave_alone(self.memory, self.deployment, credential, credential.value, said)

    def obstacle(self) -> str | None:
        found = self.memory.obstacle(self.deployment, self.now)
        return None if found is None else found.reason


def test_a_rate_limited_deployment_is_in_nobodys_way_any_more_when_its_time_is_over() -> None:
    world = World("one")
    world.fails("rate_limited", 429, retry_after=10.0)
    assert world.obstacle() == "rate limited (429)"
    world.now = 9.9
    assert world.obstacle() is not None
    world.now = 10.0
    assert world.obstacle() is None


def test_a_rest_without_a_time_and_one_that_is_too_long_have_the_rules_time() -> None:
    world = World("one")
    world.fails("rate_limited", 429)
    world.now = 2.0
    assert world.obstacle() is None
    world.fails("rate_limited", 429, retry_after=86_400.0)
    world.now = 62.0
    assert world.obstacle() is None


def test_a_deployment_rests_when_all_of_its_credentials_do() -> None:
    world = World("one", "two")
    world.fails("rate_limited", 429, 0, retry_after=30.0)
    assert world.obstacle() is None
    assert another_key(world.memory, world.deployment)
    world.fails("credentials", 401, 1)
    assert world.obstacle() == "its credentials are refused (401)"
    assert not another_key(world.memory, world.deployment)
    world.now = 30.0
    assert world.obstacle() is None, "the one that was rate limited is free again"


def test_a_new_secret_ends_a_rest() -> None:
    world = World("old")
    world.fails("credentials", 403)
    assert world.obstacle() == "its credentials are refused (403)"
    world.credentials[0].value = "new"
    assert world.obstacle() is None
    world.memory.sweep(world.now)
    assert world.memory.troubled == {}


def test_a_refused_credential_may_be_tried_again_after_a_while() -> None:
    world = World("old")
    world.fails("credentials", 402)
    world.now = 299.0
    assert world.obstacle() is not None
    world.now = 300.0
    assert world.obstacle() is None


def test_an_overloaded_upstream_rests_only_if_it_says_so() -> None:
    world = World("one")
    world.fails("overloaded", 503)
    assert world.obstacle() is None
    world.fails("overloaded", 503, retry_after=5.0)
    assert world.obstacle() == "overloaded (503)"


@pytest.mark.parametrize("kind", ["rate_limited", "credentials", "overloaded"])
def test_what_no_upstream_has_said_makes_nobody_rest(kind: FailureKind) -> None:
    world = World("one")
    world.fails(kind, 0, retry_after=9.0)
    assert world.obstacle() is None
    assert not another_key(world.memory, world.deployment)


@pytest.mark.parametrize("kind", ["server", "cut", "timeout", "client", "context_window"])
def test_other_failures_make_nobody_rest(kind: FailureKind) -> None:
    world = World("one")
    world.fails(kind, 500, retry_after=9.0)
    assert world.obstacle() is None


def test_the_ring_of_a_deployment_is_made_once() -> None:
    world = World("one", "two")
    assert ring_of(world.memory, world.deployment) is ring_of(world.memory, world.deployment)
