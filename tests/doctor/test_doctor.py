"""Done when: `doctor` on a configuration with a limit that cannot bite names it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.doctor.verdict import SOURCES, Problem
from llmgw_core.domain.limits import Limits
from llmgw_core.tenancy.records import TEAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llmgw_core.doctor.scene import Scene
    from llmgw_core.doctor.verdict import Verdict
    from llmgw_core.tenancy.service import Tenancy

    Examined = Callable[..., dict[str, Verdict]]

ME = "root"


def problems(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: each.problem.kind for name, each in found.items() if each.problem is not None}


def reason(verdict: Verdict) -> str:
    assert verdict.problem is not None
    return verdict.problem.reason


async def acme(tenancy: Tenancy, **limits: Any) -> None:
    await tenancy.create_organization("acme", models=["*"], limits=Limits(**limits), actor=ME)


async def key(tenancy: Tenancy, name: str = "ci", **grants: Any) -> None:
    limits = {each: grants.pop(each) for each in Limits.__struct_fields__ if each in grants}
    await tenancy.create_key(
        organization="acme", name=name, limits=Limits(**limits), actor=ME, **grants
    )


def test_every_limit_that_can_bite_is_shown_to_bite(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy, rpm=600, tpm=10**6, parallel=9, rpd=10**5, input_tpd=10**8)
        await key(
            tenancy,
            rpm=5,
            tpd=10**7,
            output_tpm=90_000,
            input_tpm=80_000,
            burst=90.0,
            model_limits=[("gpt-*", Limits(rpd=50, tpm=70_000)), ("vectors", Limits(rpm=1))],
        )
        await key(tenancy, "free")

    found = examined(
        tenants, model="limits: {rpm: 100}", alias="{rpm: 30}", deployment="caps: {rpm: 50}"
    )
    assert problems(found) == {}
    assert {name: each.canaries for name, each in found.items()} == {
        "organization acme: rpm": 4,
        "organization acme: rpd": 4,
        "organization acme: tpm": 3,
        "organization acme: parallel": 4,
        "organization acme: input_tpd": 3,
        "key ci: rpm": 6,
        "key ci: tpd": 3,
        "key ci: input_tpm": 3,
        "key ci: output_tpm": 3,
        "key ci, models gpt-*, gpt-a: rpd": 12,
        "key ci, models gpt-*, gpt-a: tpm": 3,
        "key ci, models gpt-*, gpt-b: rpd": 12,
        "key ci, models gpt-*, gpt-b: tpm": 3,
        "key ci, models vectors: rpm": 4,
        "model gpt-a: rpm": 4,
        "alias house: rpm": 33,
        "deployment gpt-a/one: rpm": 2,
    }


def test_without_limits_there_is_nothing_to_say(examined: Examined) -> None:
    assert examined() == {}


def test_a_limit_in_shadow_mode_is_named_wherever_it_is(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy, tpm=10**6, rpm=50, shadow=("tpm",))
        await key(tenancy)

    found = examined(
        tenants,
        model="limits: {rpd: 9, shadow: [rpd]}",
        deployment="caps: {rpm: 9, parallel: 4, shadow: [rpm]}",
    )
    assert problems(found) == {
        "organization acme: tpm": "shadow",
        "model gpt-a: rpd": "shadow",
        "deployment gpt-a/one: rpm": "shadow",
    }
    assert found["organization acme: tpm"].canaries == 0


def test_what_smaller_limits_above_or_below_hide_is_named_with_them(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy, rpm=1000, tpd=10**9, parallel=4)
        await tenancy.create_team("acme", "research", limits=Limits(tpm=10**5), actor=ME)
        for name in ("one", "two"):
            await tenancy.create_key(
                team="research", name=name, limits=Limits(rpm=60, parallel=5), actor=ME
            )

    found = examined(tenants)
    assert problems(found) == {
        "organization acme: rpm": "hidden",
        "organization acme: tpd": "hidden",
        "key one: parallel": "hidden",
        "key two: parallel": "hidden",
    }
    assert (
        "together hide it: at most 120 requests get that far in a minute, and it refuses above"
        in (reason(found["organization acme: rpm"]))
    )
    assert (
        "(100000 tokens per minute) hides it: at most 144000000 tokens get that far in a day"
        in (reason(found["organization acme: tpd"]))
    )


def test_a_key_of_which_nothing_is_limited_keeps_the_level_above_reachable(
    examined: Examined,
) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy, rpm=1000)
        await key(tenancy, rpm=60)
        await key(tenancy, "free")

    assert problems(examined(tenants)) == {}


def test_tokens_that_so_many_requests_cannot_need_are_named(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy)
        await key(tenancy, models=["gpt-a"], rpm=5, tpm=50_000)

    assert problems(examined(tenants, model="context_window: 8000,"[:-1])) == {
        "key ci: tpm": "hidden"
    }
    assert problems(examined(None, model="context_window: 16000")) == {}


@pytest.mark.parametrize(
    ("limits", "kinds"),
    [
        ({"tpm": 3}, {"tpm": "unit"}),  # thousands of tokens were meant
        ({"output_tpm": 10}, {"output_tpm": "unit"}),
        ({"input_tpd": 1}, {"input_tpd": "unit"}),
        ({"rpm": 1000, "rpd": 50}, {"rpm": "hidden"}),  # what is by the minute is by the day
        ({"rpm": 1, "rpd": 5000}, {"rpd": "hidden"}),
        ({"tpm": 10**6, "burst": 0.001}, {"tpm": "unit"}),
    ],
)
def test_numbers_that_are_hardly_meant_are_named(
    examined: Examined, limits: dict[str, Any], kinds: dict[str, str]
) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy, **limits)
        await key(tenancy)

    found = examined(tenants)
    assert problems(found) == {f"organization acme: {name}": kind for name, kind in kinds.items()}
    assert all("unit" in each.problem.remedy for each in found.values() if each.problem)


def test_limits_that_no_call_meets_are_named_with_the_reason(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await tenancy.create_organization("acme", models=["gpt-b"], actor=ME)
        for team in ("empty", "off", "idle"):
            await tenancy.create_team("acme", team, limits=Limits(rpm=5), actor=ME)
        await tenancy.create_key(team="off", name="a", actor=ME)
        await tenancy.disable(TEAM, "off", actor=ME)
        await key(tenancy, "gone", rpm=5)
        await tenancy.revoke_key("gone", actor=ME)
        await key(tenancy, "none", rpm=5, models=[])
        await key(
            tenancy,
            "pairs",
            model_limits=[("claude-*", Limits(rpm=3)), ("gpt-*", Limits(rpm=4))],
        )
        await tenancy.create_organization("other", models=["vectors"], actor=ME)
        limits = Limits(output_tpm=5000)
        await tenancy.create_key(organization="other", name="mute", limits=limits, actor=ME)

    found = examined(tenants, model="limits: {rpm: 7}", deployment="caps: {rpm: 5}")
    assert {name: reason(each) for name, each in found.items() if each.problem} == {
        "team empty: rpm": "It has no key that works.",
        "team idle: rpm": "It has no key that works.",
        "team off: rpm": "It is disabled.",
        "key gone: rpm": "The key does not work: it is revoked, or something above it is disabled.",
        "key none: rpm": "No model can be used by it.",
        "key pairs, models claude-*: rpm": (
            "The pattern claude-* covers no model that is configured."
        ),
        "key pairs, models gpt-*, gpt-a: rpm": "The model gpt-a cannot be used by it.",
        "key mute: output_tpm": "Only embeddings meet it, which have no tokens of output.",
        "model gpt-a: rpm": "No key that works may use it.",
        "deployment gpt-a/one: rpm": (
            "No caller can get to the deployment: neither model nor zone is granted."
        ),
    }
    assert set(problems(found).values()) == {"unreachable"}
    assert found["key pairs, models gpt-*, gpt-b: rpm"].problem is None


def test_what_an_own_cap_or_the_model_hides_of_a_cap_is_named(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy)
        await key(tenancy)

    found = examined(
        tenants, model="limits: {tpm: 9000}", deployment="caps: {rpm: 900, rpd: 50, tpm: 99000}"
    )
    assert problems(found) == {
        "deployment gpt-a/one: rpm": "hidden",
        "deployment gpt-a/one: tpm": "hidden",
    }


class Brake:
    """Some other kind of limit, which joins."""

    id = "brake:x"
    where = "brake x"
    what = "3 in a row"

    def look(self, scene: Scene) -> Problem | None:
        return None

    async def prove(self, scene: Scene) -> Problem | None:
        principal = next(iter(scene.callers.principals.values()))
        assert (await scene.send(principal, "gpt-a")).sings
        return Problem("silent", "Nobody has refused.", "Build it.")


@pytest.fixture
def _another_source() -> Iterator[None]:
    SOURCES.append(lambda scene: [Brake()])
    yield
    SOURCES.pop()


@pytest.mark.usefixtures("_another_source")
def test_other_kinds_of_limits_join_with_what_they_prove(examined: Examined) -> None:
    async def tenants(tenancy: Tenancy) -> None:
        await acme(tenancy)
        await key(tenancy)

    found = examined(tenants)
    assert problems(found) == {"brake x: x": "silent"}
    assert found["brake x: x"].canaries == 1
