"""Done when: `doctor` names budgets that cannot bite, and shows of the others that they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgw_core.domain.limits import Budget
from llmgw_core.tenancy.budgeting import Budgeting
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.doctor.verdict import Verdict
    from llmgw_core.tenancy.service import Tenancy

    Examined = Callable[..., dict[str, Verdict]]

ME = "root"
PRICED = "prices: [{from: 2020-01-01, cost: {input: 10, output: 20}}]"
KINDS: dict[str, Any] = {"org": ORGANIZATION, "key": KEY, "team": TEAM}


async def acme(tenancy: Tenancy, *budgets: tuple[str, str, Budget]) -> None:
    await tenancy.create_organization("acme", models=["*"], actor=ME)
    await tenancy.create_team("acme", "idle", actor=ME)
    await tenancy.create_key(organization="acme", name="ci", actor=ME)
    await tenancy.create_key(organization="acme", name="free", models=["gpt-b"], actor=ME)
    for kind, name, budget in budgets:
        await Budgeting(tenancy._store).set(KINDS[kind], name, budget, actor=ME)


def test_budgets_that_bite_are_shown_to(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(
            tenancy,
            ("org", "acme", Budget("money", 50 * 10**9, "month")),
            ("key", "ci", Budget("tokens", 10**6, "day", "Europe/Berlin")),
            ("key", "ci", Budget("money", 10**9, "week", fallback="gpt-b")),
        )

    found = examined(tenants, model=PRICED)
    assert found.keys() == {"organization acme: month", "key ci: day", "key ci: week"}
    assert [each.problem for each in found.values()] == [None] * 3
    assert all(each.canaries >= 2 for each in found.values())


def test_budgets_that_cannot_bite_are_named(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(
            tenancy,
            ("org", "acme", Budget("money", 10**9, "month")),
            ("key", "ci", Budget("money", 2 * 10**9, "day")),
            ("key", "ci", Budget("money", 10, "total")),
            ("key", "free", Budget("money", 10**9, "day")),
            ("key", "free", Budget("tokens", 10**6, "week", shadow=True)),
            ("team", "idle", Budget("tokens", 10**6, "week")),
        )

    found = examined(tenants, model=PRICED)
    kinds = {name: each.problem.kind for name, each in found.items() if each.problem is not None}
    assert kinds == {
        "organization acme: month": "hidden",
        "key ci: day": "hidden",
        "key ci: total": "unit",
        "key free: day": "unreachable",
        "key free: week": "shadow",
        "team idle: week": "unreachable",
    }


def test_a_fallback_that_cannot_serve_is_named(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(
            tenancy,
            ("org", "acme", Budget("money", 10**9, "month", fallback="gpt-a")),
            ("key", "ci", Budget("money", 10**9, "day", fallback="nobody")),
        )

    found = examined(tenants, model=PRICED)
    reasons = {name: each.problem.reason for name, each in found.items() if each.problem}
    assert reasons == {
        "organization acme: month": (
            "Its fallback gpt-a is not cheaper than what it stands in for."
        ),
        "key ci: day": (
            "Its fallback nobody is no model that its callers may use: calls are refused."
        ),
    }
