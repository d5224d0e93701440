"""`doctor` and the brake: what can bite is shown to, and what cannot is named."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llmgw_core.domain.brake import Brake

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from llmgw_core.doctor.verdict import Verdict
    from llmgw_core.tenancy.service import Tenancy

    Examined = Callable[..., dict[str, Verdict]]

ME = "root"


def problems(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: each.problem.kind for name, each in found.items() if each.problem is not None}


def test_every_bound_that_can_bite_is_shown_to_bite(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        brake = Brake(session_money=10**9, session_calls=5, key_seconds=60.0, velocity_floor=10**9)
        await tenancy.create_organization("acme", models=["*"], brake=brake, actor=ME)
        await tenancy.create_key(
            organization="acme", name="ci", brake=Brake(key_repeats=3), actor=ME
        )

    found = examined(tenants, more="brake: {key_money: 5, session_repeats: 4}")
    assert problems(found) == {}
    assert set(found) == {
        "configuration: key_money",
        "configuration: session_repeats",
        "organization acme: session_money",
        "organization acme: session_calls",
        "organization acme: key_seconds",
        "organization acme: velocity_floor",
        "key ci: key_repeats",
    }
    assert all(each.canaries >= 3 for each in found.values())


def test_what_cannot_bite_is_named(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        shadow = Brake(session_calls=5, shadow=("session_calls",))
        await tenancy.create_organization("acme", models=["*"], brake=shadow, actor=ME)
        await tenancy.create_team("acme", "idle", brake=Brake(key_calls=3), actor=ME)
        await tenancy.create_key(
            organization="acme", name="ci", brake=Brake(session_calls=50), actor=ME
        )

    found = examined(tenants, more="brake: {key_calls: 20}")
    assert problems(found) == {
        "organization acme: session_calls": "shadow",
        "team idle: key_calls": "unreachable",
        "key ci: session_calls": "hidden",
    }
    problem = found["key ci: session_calls"].problem
    assert problem is not None
    assert "configuration:key_calls always refuses before" in problem.reason


def test_velocity_that_is_lifted_or_slower_elsewhere_is_named(
    examined: Examined, caplog: pytest.LogCaptureFixture
) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        fast, later = Brake(velocity_floor=10**9), time.time() + 3600
        await tenancy.create_organization("acme", models=["*"], brake=fast, actor=ME)
        for name, brake in (
            ("ci", Brake(velocity_floor=10**8, lifted_until=later)),
            ("cd", Brake(velocity_floor=5 * 10**9)),
            ("free", Brake(velocity_floor=5 * 10**9, velocity_factor=2)),
        ):
            await tenancy.create_key(organization="acme", name=name, brake=brake, actor=ME)

    assert problems(examined(tenants)) == {
        "key ci: velocity_floor": "lifted",
        "key cd: velocity_floor": "hidden",
    }
    assert not [each for each in caplog.records if each.name == "llmgw.brake"]
