"""Calls to aliases: where they go, who pays what, whose limits count, and that users stay with
their variant."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.access import Principal
from llmgw_core.domain.alias import Alias, Variant
from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.pipeline.aliases import mark_of
from llmgw_core.testing.installation import PRICES, at, leading_to, served_by
from llmgw_core.testing.reloads import changed
from llmgw_core.wire.request import RequestView, decode_request

if TYPE_CHECKING:
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.client import Client
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

PRINCIPAL = Principal.of("org", user="me")
DEAR = (PriceEntry(PRICES[0].valid_from, TokenPrices(call=Decimal(2))),)


async def served(here: Installation) -> list[str]:
    """Which model served each call."""
    return [record.served_model for record in await here.records()]


async def test_the_ledger_has_what_was_asked_and_what_served_at_its_price(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"old": [at(server)], "new": served_by(at(sibling), prices=DEAR)},
        aliases={"chat": leading_to("old=1", "new=1")},
    )
    for number in range(40):
        for stream in (False, True):
            assert (await here.client.chat("chat", user=f"u{number}", stream=stream)).status == 200
    records = await here.records()
    assert {record.model for record in records} == {"chat"}
    assert {record.served_model for record in records} == {"old", "new"}
    for record in records:
        assert record.deployment == f"{record.served_model}/a"
        dear = record.served_model == "new"
        assert record.charge == (2 * 10**9 if dear else 7 * 1000 + 3 * 2000)
    assert len(server.requests) == sum(record.served_model == "old" for record in records)


async def test_a_user_keeps_his_variant_over_calls_reloads_and_restarts(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    models = {"old": [at(server)], "new": [at(sibling)]}
    aliases = {"chat": leading_to("old=70", "new=30")}

    async def all_users(here: Installation) -> list[str]:
        before = len(await here.records())
        for number in range(30):
            assert (await here.client.chat("chat", user=f"u{number}")).status == 200
        return (await served(here))[before:]

    here = await installed(models, aliases=aliases)
    first = await all_users(here)
    assert set(first) == {"old", "new"}
    assert await all_users(here) == first
    config = changed(here, aliases={"chat": leading_to("old=70", "new=30", tags=("x",))})
    assert (await here.gateway.reload(config)).changed == ("aliases.chat",)
    assert await all_users(here) == first
    more = changed(here, aliases={"chat": leading_to("old=40", "new=60")})
    await here.gateway.reload(more)
    later = await all_users(here)
    assert {pair for pair in zip(first, later, strict=True) if pair[0] != pair[1]} == {
        ("old", "new")
    }


async def test_an_alias_is_granted_like_a_model_and_so_is_what_it_leads_to(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"old": served_by(at(server), tags=("safe",)), "new": [at(sibling)]},
        aliases={"chat": leading_to("old", "new", tags=("safe",))},
    )
    expected = {
        "all": (["*"], {"old", "new"}),
        "name": (["chat", "old", "new"], {"old", "new"}),
        "one": (["chat", "old"], {"old"}),
        "tags": (["tag:safe"], {"old"}),
        "models": (["old", "new"], None),
        "alias": (["chat"], None),
    }
    for name, (models, variants) in expected.items():
        client = await here.another(name, models=models)
        before = len(await here.records())
        statuses = Counter([(await client.chat("chat", user=f"u{n}")).status for n in range(20)])
        if variants is None:
            assert statuses == {404 if name == "models" else 403: 20}
            message = (await client.chat("chat")).json()["error"]["message"]
            assert "not use any of the models" in message or name == "models"
        else:
            assert statuses == {200: 20}
        assert set((await served(here))[before:]) == (variants or set())
        listed = [one["id"] for one in (await client.get("/v1/models")).json()["data"]]
        assert ("chat" in listed) is (variants is not None)


async def test_variants_out_of_the_callers_zones_are_none_of_his(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    far = served_by(at(sibling, zone="world"), fallbacks=("near",))
    here = await installed(
        {"near": [at(server)], "far": far},
        aliases={"chat": leading_to("far=99", "near=1"), "away": leading_to("far")},
    )
    narrow = await here.another("narrow", zones=["onprem"])
    for number in range(20):
        assert (await narrow.chat("chat", user=f"u{number}")).status == 200
    # What the only variant falls back to is better than nobody, as it is for the model itself.
    assert (await narrow.chat("away")).status == 200
    assert (await narrow.chat("far")).status == 200
    assert set(await served(here)) == {"near"}
    assert sibling.accepted == 0


async def test_what_a_variant_falls_back_to_needs_the_grant_of_the_variant(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"secret": served_by(at(server), fallbacks=("open",)), "open": [at(server)]},
        aliases={"chat": leading_to("secret")},
    )
    client = await here.another("other", models=["chat", "open"])
    assert (await client.chat("chat")).status == 403
    assert (await client.chat("secret")).status == 404


async def test_what_fails_at_a_variant_goes_on_to_the_others(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.status = 500
    here = await installed(
        {"old": [at(server)], "new": [at(sibling)]}, aliases={"chat": leading_to("old=99", "new")}
    )
    for number in range(5):
        assert (await here.client.chat("chat", user=f"u{number}")).status == 200
    assert await served(here) == ["new"] * 5


@pytest.mark.parametrize("limited", ["chat", "old"])
async def test_limits_of_the_alias_and_of_the_variant_hold(
    installed: Install, server: ModelServer, limited: str
) -> None:
    limits = {limited: Limits(rpm=2)}
    here = await installed(
        {"old": served_by(at(server), limits=limits.get("old", Limits()))},
        aliases={"chat": leading_to("old", limits=limits.get("chat", Limits()))},
    )
    assert [(await here.client.chat("chat")).status for _ in range(3)] == [200, 200, 429]
    assert (await here.client.chat("old")).status == (429 if limited == "old" else 200)


async def test_an_alias_of_embeddings_serves_embeddings(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"bge": served_by(at(server), kind="embedding", dimensions=2)},
        aliases={"embed": leading_to("bge")},
    )
    assert (await here.client.embed("embed")).status == 200
    refused = await here.client.chat("embed")
    assert (refused.status, refused.json()["error"]["code"]) == (400, "unsupported_model")
    [record] = await here.records()
    assert (record.model, record.served_model) == ("embed", "bge")


class Denies:
    """A plugin that denies the model `secret`."""

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def authorize(self, call: Call, model: str) -> str | None:
        return "not that one" if model == "secret" else None


async def test_a_variant_that_a_plugin_denies_hears_nothing(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"secret": [at(server)], "open": [at(sibling)]},
        aliases={"chat": leading_to("secret", "open"), "only": leading_to("secret")},
        plugins=[("denies", Denies)],
        sections=[PluginConfig("denies")],
    )
    for number in range(10):
        assert (await here.client.chat("chat", user=f"u{number}")).status == 200
    assert (await here.client.chat("only")).status == 403
    assert server.accepted == 0


class Renames:
    """A plugin that sends requests for `m` to `chat`."""

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> RequestView:
        return request.replace(call.endpoint, {"model": "chat"})


async def test_a_plugin_may_send_a_call_to_an_alias(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)], "old": [at(server)]},
        aliases={"chat": leading_to("old", limits=Limits(rpm=1))},
        plugins=[("renames", Renames)],
        sections=[PluginConfig("renames")],
    )
    assert [(await here.client.chat("m")).status for _ in range(2)] == [200, 429]
    assert (await here.records())[0].served_model == "old"


def call_of(principal: Principal, *headers: tuple[bytes, bytes], user: str = "null") -> Call:
    head = Head("POST", "/v1/chat/completions", headers)
    call = Call("req_1", "chat.completions", head, 0.0, 0)
    call.principal = principal
    body = b'{"model":"chat","messages":[{"role":"user","content":"x"}],"user":%b}'
    call.request = decode_request(body % user.encode(), "chat.completions")
    return call


KEY = Principal((), "org", key_id="key_1")
USER = Principal((), "org", user_id="user_1", key_id="key_1")
SESSION = (b"x-session-id", b"s1")


@pytest.mark.parametrize(
    ("sticky", "call", "mark"),
    [
        ("user", call_of(USER, user='"ann"'), "end user org ann"),
        ("user", call_of(USER), "user user_1"),
        ("user", call_of(USER, user='""'), "user user_1"),
        ("user", call_of(USER, user="7"), "user user_1"),
        ("user", call_of(KEY), "key key_1"),
        ("user", call_of(Principal((), "org")), "req_1"),
        ("key", call_of(USER, user='"ann"'), "key key_1"),
        ("key", call_of(PRINCIPAL), "req_1"),
        ("session", call_of(USER, SESSION, user='"ann"'), "session org s1"),
        ("session", call_of(USER, (b"x-session-id", b""), user='"ann"'), "end user org ann"),
        ("session", call_of(KEY), "key key_1"),
        ("call", call_of(USER, SESSION, user='"ann"'), "req_1"),
    ],
)
def test_what_makes_calls_the_same(sticky: str, call: Call, mark: str) -> None:
    alias = Alias((Variant("m"),), sticky)  # type: ignore[arg-type]
    assert mark_of(alias, call) == mark


async def test_sessions_are_read_from_the_header_that_the_alias_names(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"old": [at(server)], "new": [at(sibling)]},
        aliases={"chat": leading_to("old", "new", sticky="session", session_header="X-Chat")},
    )

    async def ask(client: Client, session: int) -> None:
        headers = [(b"x-chat", b"%d" % session)]
        assert (await client.chat("chat", headers=headers)).status == 200

    for session in (*range(20), *range(20)):
        await ask(here.client, session)
    chosen = await served(here)
    assert chosen[:20] == chosen[20:]
    assert set(chosen) == {"old", "new"}


async def test_ten_thousand_users_share_an_alias_as_its_weights_say(
    installed: Install, server: ModelServer
) -> None:
    """95 to 5, within four standard deviations, and whoever asks again gets the same. The lanes
    are those of a running gateway; nobody is called."""
    here = await installed(
        {"old": [at(server)], "new": [at(server)]}, aliases={"chat": leading_to("old=95", "new=5")}
    )
    lanes = here.gateway._generation.admission._lanes(PRINCIPAL_OF_ALL)
    lane = lanes.lane("chat")
    assert lane is not None
    assert lane.choice is not None

    def chosen() -> list[str]:
        assert lane is not None
        assert lane.choice is not None
        calls = (call_of(PRINCIPAL_OF_ALL, user=f'"user {number}"') for number in range(10_000))
        return [found.model.name for call in calls if (found := lane.choice.lane(call))]

    first = chosen()
    assert len(first) == 10_000
    assert abs(first.count("new") - 500) < 4 * (10_000 * 0.95 * 0.05) ** 0.5
    assert chosen() == first


PRINCIPAL_OF_ALL = Principal.of("org")
