"""Done when: `doctor` names budgets that cannot bite, and shows of the others that they do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llmgw_core.doctor.examine import examine
from llmgw_core.domain.limits import Budget
from llmgw_core.tenancy.budgeting import Budgeting
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def test_budgets_below_hide_the_one_above_only_if_all_together_are_less(
    examined: Examined,
) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy)
        await tenancy.create_key(organization="acme", name="cd", models=["gpt-a"], actor=ME)
        budgeting = Budgeting(tenancy._store)
        for name in ("ci", "cd", "free"):
            await budgeting.set(KEY, name, Budget("money", 10**10, "month"), actor=ME)
        for budget in (Budget("money", 25 * 10**9, "month"), Budget("money", 4 * 10**10, "day")):
            await budgeting.set(ORGANIZATION, "acme", budget, actor=ME)

    found = examined(tenants, model=PRICED)
    problems = {name: each.problem for name, each in found.items() if each.problem is not None}
    assert problems.keys() == {"key free: month", "organization acme: day"}
    assert "together are smaller and always used up" in problems["organization acme: day"].reason


def test_prices_of_a_catalogue_are_those_of_the_plugin_that_brings_it(
    examined: Examined,
) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy, ("org", "acme", Budget("money", 50 * 10**9, "month")))

    listed = "prices: [{catalogue: openai/gpt-4o}]\n    tokenizer: {name: o200k_base}"
    found = examined(tenants, model=listed, plugins="  - {name: pricelist}\n  - {name: tokenizers}")
    assert [each.problem for each in found.values()] == [None]


def test_where_no_database_is_none_is_made(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    model = "{name: one, backend: openai, zone: eu, options: {base_url: 'http://x.invalid'}}"
    file.write_text(
        f"models: {{m: {{limits: {{rpm: 1}}, deployments: [{model}]}}}}\n"
        "plugins: [{name: openai}]\naccounting: {unpriced: zero}\n"
    )
    [verdict] = asyncio.run(examine(file)).verdicts
    assert verdict.problem is not None
    assert verdict.problem.kind == "unreachable"
    assert list(tmp_path.iterdir()) == [file]


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
