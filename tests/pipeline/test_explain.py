"""What `explain` says of calls that nobody makes, and that asking changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.accounting.prices import PriceBook
from llmgw_core.config.schema import PluginConfig
from llmgw_core.config.schema_aliases import AliasConfig
from llmgw_core.domain.access import Principal, Subject
from llmgw_core.domain.alias import Variant
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.life import Life
from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.pipeline.explanation import Explanation, Left, Question
from llmgw_core.routing.state import Obstacle
from llmgw_core.testing.installation import at, leading_to, served_by
from llmgw_core.testing.plugins import DenyModel
from llmgw_core.testing.reloads import changed

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer


async def ask(here: Installation, model: str = "m", **question: Any) -> Explanation:
    return await here.gateway.explain(Question(model=model, **{"key": here.tenant.key, **question}))


def ids(explanation: Explanation) -> list[str]:
    return [each.deployment for each in explanation.candidates]


def rules(explanation: Explanation, kind: str) -> list[str]:
    return [rule.sentence for rule in explanation.rules if rule.kind == kind]


async def test_the_candidates_come_in_the_order_in_which_they_are_tried(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(at(server, "a"), at(server, "b", zone="eu"), fallbacks=("n",)),
            "n": [at(server, "c")],
        }
    )
    first = await ask(here)
    assert ids(first) == ["m/a", "m/b", "n/c"]
    assert await ask(here) == first  # asking takes nobody's turn
    assert (await here.client.chat("m")).status == 200
    assert ids(await ask(here)) == ["m/b", "m/a", "n/c"]
    one = first.candidates[1]
    assert (one.model, one.backend, one.zone, one.note) == ("m", "canonical", "eu", "")
    assert (first.asked, first.model, first.refusal, first.notes) == ("m", "m", None, ())
    assert first.caller is not None
    assert first.caller.key_id == here.tenant.key_id
    assert rules(first, "grant") == ["m is granted: organization: *"]


async def test_asking_changes_nothing_and_calls_nobody(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)]}, tenant={"key_limits": Limits(rpm=2, tpm=1000, parallel=1)}
    )
    for _ in range(5):
        assert (await ask(here)).refusal is None
    assert server.requests == []
    assert here.gateway.stats.in_flight == 0
    assert (await here.client.chat("m")).status == 200
    assert len(await here.records()) == 1


async def test_who_would_begin_to_ramp_up_with_this_call_comes_behind(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server, "a"), at(server, "b")]})
    memory = here.gateway._foundation.memory
    a = here.gateway.catalog["m"].deployments[0]
    memory.put(a, Obstacle("breaker", "ejected until now", until=memory.clock()))
    assert ids(await ask(here)) == ["m/b", "m/a"]
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    assert [each.deployment for each in record.attempts] == ["m/b"]


async def test_who_has_no_room_for_as_many_tokens_is_dropped(
    installed: Install, server: ModelServer
) -> None:
    small = at(server, "small", caps=Limits(tpm=1000))
    here = await installed({"m": [small, at(server, "large", priority=1)]})
    assert (await here.client.chat("m")).status == 200
    assert ids(await ask(here, body={"max_tokens": 100})) == ["m/small", "m/large"]
    found = await ask(here, body={"max_tokens": 1000})
    assert ids(found) == ["m/large"]
    assert [each.deployment for each in found.dropped] == ["m/small"]
    assert found.dropped[0].reason.startswith("at its cap of ")


async def test_who_is_dropped_is_named_with_the_reason(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(
                at(server, "zone", zone="world"),
                at(server, "off"),
                at(server, "ejected"),
                at(server, "fine"),
                fallbacks=("n",),
            ),
            "n": [at(server)],
        },
        tenant={"models": ["m"], "zones": ["onprem"]},
    )
    gateway = here.gateway
    await gateway.switches.off("deployment", "m/off", reason="it burns", actor="me")
    memory = gateway._foundation.memory
    ejected = gateway.catalog["m"].deployments[2]
    memory.put(ejected, Obstacle("breaker", "ejected for 30 s", until=memory.clock() + 30))
    found = await ask(here)
    assert [(each.deployment, each.note) for each in found.candidates] == [
        ("m/fine", ""),
        ("m/ejected", "ejected for 30 s; it is tried when nobody else is left"),
    ]
    reasons = {each.deployment: each.reason for each in found.dropped}
    assert reasons["m/zone"] == "zone world is not allowed"
    assert reasons["m/off"] == "switched off: it burns"
    assert "m/ejected" not in reasons
    assert reasons["n/a"] == "organization: no pattern matches"
    assert Left("n/a", "n", "organization: no pattern matches") in found.dropped


async def test_the_least_bad_one_is_a_candidate_with_a_note(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    memory = here.gateway._foundation.memory
    (deployment,) = here.gateway.catalog["m"].deployments
    memory.put(deployment, Obstacle("breaker", "ejected", until=memory.clock() + 30))
    (candidate,) = (await ask(here)).candidates
    assert candidate.note == "ejected; it is tried when nobody else is left"


async def test_what_will_stop_a_candidate_then_is_noted(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(at(server), fallbacks=("n",)),
            "n": served_by(at(server), limits=Limits(rpm=1)),
        }
    )
    assert (await here.client.chat("n")).status == 200
    assert [each.note for each in (await ask(here)).candidates] == [
        "",
        "the meter model:n:rpm has no room",
    ]
    here.gateway._generation.explainer.wall_clock_ns = lambda: 0
    assert (await ask(here)).candidates[0].note == "it has no price at this time"


async def test_a_model_that_has_lost_its_price_is_not_called_and_told_with_the_reason(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PriceBook, "price", lambda *arguments: None)
    here = await installed({"m": [at(server)]})
    assert (await here.client.chat("m")).status == 503
    assert server.requests == []
    found = await ask(here)
    assert found.refusal is not None
    assert found.refusal.code == "model_unpriced"
    assert found.dropped == (Left("m/a", "m", "it has no price"),)


@pytest.mark.parametrize(
    ("key", "model", "status", "code"),
    [
        ("wrong", "m", 401, "invalid_api_key"),
        ("", "m", 401, "invalid_api_key"),
        (None, "nothing", 404, "model_not_found"),
        (None, "n", 404, "model_not_found"),
        (None, "far", 403, "permission_denied"),
        (None, "gone", 404, "model_retired"),
    ],
)
async def test_what_the_caller_would_be_told_is_part_of_the_answer(
    installed: Install, server: ModelServer, key: str | None, model: str, status: int, code: str
) -> None:
    here = await installed(
        {
            "m": [at(server)],
            "n": [at(server)],
            "far": [at(server, zone="world")],
            "gone": served_by(at(server), life=Life(state="retired")),
        },
        tenant={"models": ["m", "far", "gone"], "zones": ["onprem"]},
    )
    found = await ask(here, model, key=here.tenant.key if key is None else key)
    assert found.refusal is not None
    assert (found.refusal.status, found.refusal.code) == (status, code)
    assert found.candidates == ()
    reasons = {each.deployment: each.reason for each in found.dropped}
    if model == "far":
        assert reasons == {"far/a": "zone world is not allowed"}
    if model == "n":
        assert rules(found, "grant") == ["n is not granted: organization: no pattern matches"]
        assert reasons == {"n/a": "model_not_found"}
    if model == "nothing":
        assert rules(found, "model") == ["there is no model nothing"]


async def test_a_limit_that_is_reached_is_told_and_the_plan_as_well(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)]}, tenant={"team_limits": Limits(rpm=1), "key_limits": Limits(tpm=5000)}
    )
    found = await ask(here)
    assert rules(found, "limit")[:2] == [
        "1 of 1 requests per minute are left to the team",
        "5000 of 5000 tokens per minute are left to the key",
    ]
    assert (await here.client.chat("m")).status == 200
    found = await ask(here)
    assert found.refusal is not None
    assert (found.refusal.status, found.refusal.code) == (429, "rate_limit_exceeded")
    assert found.refusal.decided == f"team:{here.tenant.team_id}:rpm"
    assert ids(found) == ["m/a"]


async def test_a_limiter_that_cannot_tell_is_not_asked(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"key_limits": Limits(rpm=1)})
    assert (await here.client.chat("m")).status == 200
    monkeypatch.delattr(type(here.gateway.limiter), "examine")
    assert (await ask(here)).refusal is None


async def test_the_request_counts(installed: Install, server: ModelServer) -> None:
    here = await installed(
        {"m": [at(server)], "e": served_by(at(server), kind="embedding")},
        tenant={"key_limits": Limits(tpm=100)},
    )
    found = await ask(here, body={"max_tokens": 500, "model": "other"})
    assert found.asked == "m"
    assert found.refusal is not None
    assert found.refusal.code == "request_exceeds_limit"
    assert (await ask(here, "e", body={"input": "short"})).refusal is None
    with pytest.raises(GatewayError, match="'messages' must be an array"):
        await ask(here, body={"messages": "x"})


async def test_a_route_and_a_model_that_is_off_are_told(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)], "n": [at(server)]})
    await here.gateway.switches.route("m", "n", reason="cheaper", actor="me")
    found = await ask(here)
    assert (found.asked, found.model, ids(found)) == ("m", "n", ["n/a"])
    assert rules(found, "switch") == ["model m is routed to n: cheaper"]
    await here.gateway.switches.off("model", "n", reason="hot", actor="me")
    found = await ask(here, "n")
    assert found.refusal is not None
    assert found.refusal.code == "model_switched_off"
    assert rules(found, "switch") == ["model n is switched off: hot"]
    assert found.refusal.decided == "model n is switched off: hot"


async def test_an_alias_tells_where_it_leads(installed: Install, server: ModelServer) -> None:
    here = await installed({"a": [at(server)], "b": [at(server)]})
    aliases = {
        "m": AliasConfig(variants=(Variant("a", 95), Variant("b", 5))),
        "dice": AliasConfig(variants=(Variant("a"), Variant("b")), sticky="call"),
        "talk": AliasConfig(variants=(Variant("a"), Variant("b")), sticky="session"),
    }
    await here.gateway.reload(changed(here, aliases=aliases))
    found = await ask(here)
    assert found.model in ("a", "b")
    assert rules(found, "alias") == [f"m leads to {found.model} (sticky: user; weights: a 95, b 5)"]
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    assert (record.model, record.deployment) == ("m", ids(found)[0])
    dice = await ask(here, "dice")
    assert dice.notes == ("dice leads every call elsewhere by chance; this is one of them",)
    talk = await ask(here, "talk")
    assert talk.notes == ("a call with the header x-session-id may be led elsewhere",)


async def test_an_alias_tells_of_its_canary(installed: Install, server: ModelServer) -> None:
    here = await installed(
        {"a": [at(server)], "org/b": [at(server)]}, aliases={"m": leading_to("a")}
    )
    rollouts = here.gateway.rollouts
    await rollouts.start("m", "org/b", share=10, actor="me")
    assert rules(await ask(here), "canary") == ["org/b is a canary with 10 %"]
    await rollouts.promote("m", actor="me")
    found = await ask(here)
    assert rules(found, "canary") == ["org/b is promoted in place of them"]
    assert (found.model, ids(found)) == ("org/b", ["org/b/a", "a/a"])
    await here.gateway.switches.off("deployment", "org/b/a", reason="hot", actor="me")
    dropped = (await ask(here)).dropped
    assert dropped == (Left("org/b/a", "org/b", "switched off: hot"),)
    await rollouts.abort("m", actor="me")
    assert rules(await ask(here), "canary") == []


async def test_a_call_is_confined_to_a_zone(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server, "a"), at(server, "b", zone="eu")]})
    found = await ask(here, zone="eu")
    assert ids(found) == ["m/b"]
    assert rules(found, "zone") == ["the call is confined to eu"]
    assert found.dropped == (
        Left("m/a", "m", "zone onprem is not one that the call is confined to"),
    )
    nowhere = await ask(here, zone="mars")
    assert nowhere.refusal is not None
    assert nowhere.refusal.code == "invalid_zone"


async def test_callers_are_named_by_key_or_by_who_they_are(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    named = await ask(here, key="", subject=Subject(organization="acme", team="team"))
    assert named.caller is not None
    assert (named.caller.team_id, named.caller.key_id) == (here.tenant.team_id, None)
    key = await ask(here, key="", subject=Subject(key=here.tenant.key_id))
    assert (key.caller, key.refusal) == ((await ask(here)).caller, None)
    nobody = await ask(here, key="", subject=Subject(organization="nobody"))
    assert nobody.refusal is not None
    assert nobody.refusal.code == "unknown_caller"
    given = await ask(here, key="", principal=Principal.of("elsewhere", models=["m"]))
    assert (given.refusal, ids(given)) == (None, ["m/a"])


async def test_plugins_are_asked_for_permission_only(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": served_by(at(server), fallbacks=("n",)), "n": [at(server)]},
        plugins=[("deny", DenyModel)],
        sections=[PluginConfig("deny", config={"model": "n"})],
    )
    assert ids(await ask(here)) == ["m/a"]
    refused = await ask(here, "n")
    assert refused.refusal is not None
    assert refused.refusal.status == 403


def test_a_question_does_not_show_the_key_or_what_is_asked() -> None:
    question = Question(model="m", key="secret-1", body={"messages": "secret-2"})
    assert "secret" not in repr(question)


class Denies:
    """Denies every model but the one that is asked for, and changes requests."""

    def __init__(self, config: None, context: Any) -> None:
        pass

    @hookimpl
    def authorize(self, call: Call, model: str) -> str | None:
        return None if model == call.asked else "Not that one."

    @hookimpl
    async def pre_route(self, request: object, call: Call) -> None:
        raise AssertionError("nobody calls")


async def test_hooks_that_might_change_the_call_are_named(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(at(server), life=Life(state="preview"), fallbacks=("n",)),
            "n": [at(server)],
            "far": served_by(at(server, zone="world"), fallbacks=("n",)),
        },
        plugins=[("denies", Denies)],
        tenant={"zones": ["onprem"]},
    )
    found = await ask(here)
    assert found.notes == ("pre_route of denies was not run; it may change what happens",)
    assert rules(found, "life") == ["m is preview"]
    assert ids(found) == ["m/a"]
    far = await ask(here, "far")
    assert far.refusal is not None
    assert (far.refusal.status, far.candidates) == (403, ())
