"""The doctor is no toy: meters that do not do what they should are found out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.limits import Limits
from llmgw_core.limits.bucket import Bucket
from llmgw_core.limits.caps import Caps
from llmgw_core.limits.counters import Parallel
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.limits.meters import BoundMeters
from llmgw_core.limits.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.doctor.verdict import Verdict
    from llmgw_core.tenancy.service import Tenancy

    Examined = Callable[..., dict[str, Verdict]]

ME = "root"
honest = Bucket.wait


def never(meter: Bucket, spec: Any, amount: int, now: float) -> float:
    return 0.0


def too_early(meter: Bucket, spec: Any, amount: int, now: float) -> float:
    """As if there were no room for the last two."""
    return honest(meter, spec, amount + 2, now)


def too_short(meter: Bucket, spec: Any, amount: int, now: float) -> float:
    """Who comes back after that is refused again."""
    return min(1.0, honest(meter, spec, amount, now))


async def one_key(tenancy: Tenancy, **limits: Any) -> None:
    await tenancy.create_organization("acme", models=["gpt-a"], actor=ME)
    await tenancy.create_key(organization="acme", name="ci", limits=Limits(**limits), actor=ME)


def reason(examined: Examined, **limits: Any) -> str:
    async def tenants(tenancy: Tenancy) -> None:
        await one_key(tenancy, **limits)

    [verdict] = examined(tenants).values()
    assert verdict.problem is not None
    assert verdict.problem.kind == "silent"
    return verdict.problem.reason


@pytest.mark.parametrize(
    ("broken", "limits", "says"),
    [
        (never, {"rpm": 5, "burst": 60.0}, "At its limit it let another call through."),
        (never, {"rpm": 900, "burst": 60.0}, "At its limit it let another call through."),
        (too_early, {"rpm": 5, "burst": 60.0}, "It refused after 3 calls, and not after 5."),
        (too_early, {"rpm": 900, "burst": 60.0}, "With room for one call it said 429 (key:"),
        (too_short, {"rpm": 5, "burst": 60.0}, "It refused again after the time that it had told."),
    ],
)
def test_a_meter_that_does_not_hold_its_limit_is_named(
    examined: Examined,
    monkeypatch: pytest.MonkeyPatch,
    broken: Any,
    limits: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.setattr(Bucket, "wait", broken)
    assert reason(examined, **limits).startswith(says)


def test_a_meter_that_no_call_counts_in_is_named(
    examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_counting(limiter: MemoryLimiter, bound: BoundMeters, *_: Any) -> Ticket:
        return Ticket(limiter.clock, BoundMeters(()), 0, 0, 0)

    monkeypatch.setattr(MemoryLimiter, "reserve_now", without_counting)
    assert reason(examined, rpm=5) == "At its limit it let another call through."


def test_slots_that_are_not_counted_are_named(
    examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parallel, "count", lambda meter, amount, now: None)
    monkeypatch.setattr(Parallel, "end", lambda meter, booking, held, used, now: None)
    assert reason(examined, parallel=5) == "At its limit it let another call through."


def test_a_cap_that_does_not_hold_is_named(
    examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Caps, "of", classmethod(lambda cls, deployment, limiter: None))

    async def tenants(tenancy: Tenancy) -> None:
        await one_key(tenancy)

    [verdict] = examined(tenants, deployment="caps: {rpm: 50}").values()
    assert verdict.problem is not None
    assert verdict.problem.reason == "At its cap it got another call."


def test_a_limit_behind_one_that_refuses_everybody_is_named_with_it(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await one_key(tenancy, rpm=900, input_tpm=1)

    found = examined(tenants)
    assert {name: each.problem and each.problem.kind for name, each in found.items()} == {
        "key ci: rpm": "hidden",
        "key ci: input_tpm": "unit",
    }
    hidden = found["key ci: rpm"].problem
    assert hidden is not None
    assert "every call is refused by request_exceeds_limit" in hidden.reason or (
        ":input_tpm" in hidden.reason
    )
