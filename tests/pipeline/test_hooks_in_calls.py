"""What plugins may do to one call, and in which order they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.limits import Limits
from llmgw_core.domain.reply import Reply
from llmgw_core.domain.usage import NO_USAGE
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import USUAL_CHARGE, at, served_by
from llmgw_core.testing.model_server import DONE, completion
from llmgw_core.testing.plugins import DenyModel, authenticator
from llmgw_core.testing.stream_filters import TEAPOT
from llmgw_core.testing.upstream import http_reply, repeating

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.call import Call
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted
    from llmgw_core.wire.request import RequestView


class Plugin:
    """Takes no configuration."""

    def __init__(self, config: None, context: Any) -> None:
        self.context = context


def deciding(decision: Callable[[RequestView, Call], Any]) -> type[Any]:
    """A plugin whose `pre_route` gives what `decision` gives."""

    class Deciding(Plugin):
        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> Any:
            return decision(request, call)

    return Deciding


def judging(judgement: Callable[[Reply], Any]) -> type[Any]:
    """A plugin whose `post_process` gives what `judgement` gives."""

    class Judging(Plugin):
        @hookimpl
        def post_process(self, reply: Reply) -> Any:
            return judgement(reply)

    return Judging


def rejecting(*arguments: Any) -> Any:
    raise TEAPOT


def failing(*arguments: Any) -> Any:
    raise ZeroDivisionError


async def test_pre_auth_may_bring_the_credentials(installed: Install, server: ModelServer) -> None:
    class Cookie(Plugin):
        @hookimpl
        def pre_auth(self, head: Head) -> Head:
            key = head.get(b"cookie") or b""
            return Head(head.method, head.path, ((b"authorization", b"Bearer " + key),))

    here = await installed({"m": [at(server)]}, plugins=[("cookie", Cookie)])
    stranger = Client(here.gateway, None)
    assert (await stranger.chat("m")).status == 401
    known = await stranger.chat("m", headers=[(b"cookie", here.tenant.key.encode())])
    assert known.status == 200


async def test_a_plugin_may_know_the_caller(installed: Install, server: ModelServer) -> None:
    levels = (Level("organization", "org_x", models=("m",), limits=Limits(rpm=2)),)
    principal = Principal(levels, "org_x")
    here = await installed(
        {"m": [at(server)], "n": [at(server)]}, plugins=[("sso", authenticator(principal))]
    )
    guest = Client(here.gateway, None)
    badge = [(b"x-test-principal", b"1")]
    assert (await guest.chat("m")).status == 401
    assert (await guest.chat("n", headers=badge)).status == 404
    statuses = [(await guest.chat("m", headers=badge)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await here.client.chat("n")).status == 200
    first = (await here.records())[0]
    assert (first.organization_id, first.team_id, first.key_id) == ("org_x", None, None)


async def test_a_plugin_that_says_no_to_the_credentials_is_final(
    installed: Install, server: ModelServer
) -> None:
    class Bouncer(Plugin):
        @hookimpl
        def authenticate(self, head: Head) -> None:
            rejecting()

    here = await installed({"m": [at(server)]}, plugins=[("bouncer", Bouncer)])
    assert (await here.client.chat("m")).status == 418
    assert (await here.client.get("/v1/models")).status == 418
    assert await here.records() == []


async def test_a_plugin_may_deny_the_model_that_is_asked_for(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)]},
        plugins=[("deny", DenyModel)],
        sections=[PluginConfig("deny", config={"model": "m"})],
    )
    reply = await here.client.chat("m")
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (403, "permission_denied")
    assert error["message"] == "This model is closed."
    assert (server.requests, await here.records()) == ([], [])


@pytest.mark.parametrize("broken_first", [True, False])
async def test_a_plugin_may_deny_a_fallback(
    installed: Install,
    server: ModelServer,
    sibling: ModelServer,
    scripted: Scripted,
    broken_first: bool,
) -> None:
    broken = await scripted(repeating(http_reply(500, b"{}")))
    fallbacks = ("denied", "open") if broken_first else ("denied",)
    here = await installed(
        {
            "m": served_by(at(broken), fallbacks=fallbacks),
            "denied": [at(server)],
            "open": [at(sibling)],
        },
        plugins=[("deny", DenyModel)],
        sections=[PluginConfig("deny", config={"model": "denied"})],
    )
    reply = await here.client.chat("m")
    assert reply.status == (200 if broken_first else 502)
    assert server.requests == []


async def test_when_all_that_is_left_is_denied_it_is_403(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(at(server, zone="world"), fallbacks=("denied",)),
            "denied": [at(server)],
        },
        tenant={"zones": ["onprem"]},
        plugins=[("deny", DenyModel)],
        sections=[PluginConfig("deny", config={"model": "denied"})],
    )
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (403, "permission_denied")
    assert server.requests == []
    record = await here.only_record()
    assert (record.status, record.http_status) == ("refused", 403)


@pytest.mark.parametrize("stream", [False, True])
async def test_pre_route_may_reject(installed: Install, server: ModelServer, stream: bool) -> None:
    here = await installed(
        {"m": [at(server)]},
        tenant={"limits": Limits(tpm=1000)},
        plugins=[("guard", deciding(rejecting))],
    )
    reply = await here.client.chat("m", stream=stream)
    assert (reply.status, reply.json()["error"]["type"]) == (418, "policy_error")
    assert reply.headers["x-ratelimit-remaining-tokens"] == "1000"
    assert server.requests == []
    record = await here.only_record()
    assert (record.status, record.http_status, record.error_code) == ("refused", 418, "guarded")
    assert (record.usage, record.charge, record.attempts) == (NO_USAGE, 0, ())


@pytest.mark.parametrize("stream", [False, True])
async def test_pre_route_may_answer(installed: Install, server: ModelServer, stream: bool) -> None:
    answer = Reply(msgspec.json.encode(completion("Cached")), None)
    here = await installed(
        {"m": [at(server)]}, plugins=[("cache", deciding(lambda request, call: answer))]
    )
    reply = await here.client.chat("m", stream=stream)
    assert reply.status == 200
    if stream:
        assert reply.body.endswith(DONE)
        assert reply.chunks()[0]["choices"][0]["delta"]["content"] == "Cached"
    else:
        assert reply.body == answer.body
    assert server.requests == []
    record = await here.only_record()
    assert (record.status, record.usage, record.charge) == ("completed", NO_USAGE, 0)


async def test_an_answer_goes_through_post_process_and_must_be_one(
    installed: Install, server: ModelServer
) -> None:
    answer = Reply(b"not JSON", None)
    here = await installed(
        {"m": [at(server)]},
        plugins=[
            ("cache", deciding(lambda request, call: answer)),
            ("judge", judging(lambda reply: Reply(reply.body + b"!", None))),
        ],
    )
    assert (await here.client.chat("m")).body == b"not JSON!"
    reply = await here.client.chat("m", stream=True)
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    assert [record.status for record in await here.records()] == ["completed", "failed"]


def rename(name: str) -> type[Any]:
    return deciding(lambda request, call: request.replace(call.endpoint, {"model": name}))


async def test_pre_route_may_change_the_model_to_one_that_is_granted(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)], "n": served_by(at(sibling), limits=Limits(rpm=1))},
        plugins=[("router", rename("n"))],
    )
    reply = await here.client.chat("m")
    assert reply.status == 200
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert (len(server.requests), len(sibling.requests)) == (0, 1)
    full = await here.client.chat("m")
    assert (full.status, full.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    [remembered] = here.gateway.stats.refused
    assert (remembered.call_id, remembered.rule) == (full.headers["x-request-id"], "model:n:rpm")
    done, refused = await here.records()
    assert (done.served_model, done.status) == ("n", "completed")
    assert (refused.status, refused.attempts) == ("refused", ())


@pytest.mark.parametrize("name", ["hidden", "absent"])
async def test_pre_route_may_not_change_the_model_to_one_that_is_not_granted(
    installed: Install, server: ModelServer, name: str
) -> None:
    here = await installed(
        {"m": [at(server)], "hidden": [at(server)]},
        tenant={"models": ["m"]},
        plugins=[("router", rename(name))],
    )
    reply = await here.client.chat("m")
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (404, "model_not_found")
    assert error["message"] == "The model 'm' does not exist or you do not have access to it."
    assert here.gateway.stats.refused[-1].rule.startswith(f"{name}, for which a plugin asks: ")
    assert server.requests == []
    assert (await here.only_record()).status == "refused"


async def test_a_changed_request_is_sent_and_reserved_for_as_it_is_now(
    installed: Install, server: ModelServer
) -> None:
    changes = {"max_tokens": 500, "user": None, "seed": 7}
    bound = deciding(lambda request, call: request.replace(call.endpoint, changes))
    here = await installed(
        {"m": [at(server)]}, tenant={"limits": Limits(tpm=600)}, plugins=[("bound", bound)]
    )
    assert (await here.client.chat("m", max_tokens=10, user="x")).status == 200
    body = server.bodies[0]
    assert (body["max_tokens"], body["seed"], "user" in body) == (500, 7, False)
    changes["max_tokens"] = 700
    reply = await here.client.chat("m", max_tokens=10)
    assert (reply.status, reply.json()["error"]["code"]) == (400, "request_exceeds_limit")
    assert len(server.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hook", ["pre_auth", "pre_route", "post_process"])
@pytest.mark.parametrize("on_error", ["closed", "open"])
async def test_a_failing_plugin_stops_the_call_unless_it_may_fail(
    installed: Install, server: ModelServer, stream: bool, hook: str, on_error: Any
) -> None:
    plugin = type("Failing", (Plugin,), {hook: hookimpl(lambda self: failing())})
    here = await installed(
        {"m": [at(server)]},
        plugins=[("bad", plugin)],
        sections=[PluginConfig("bad", on_error=on_error)],
    )
    reply = await here.client.chat("m", stream=stream)
    if on_error == "open":
        assert reply.status == 200
    else:
        assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    records = await here.records()
    assert len(records) == (0 if hook == "pre_auth" and on_error == "closed" else 1)
    if hook == "post_process":
        assert records[0].charge == USUAL_CHARGE


async def test_observers_get_every_record(installed: Install, server: ModelServer) -> None:
    records = []

    class Observer(Plugin):
        @hookimpl
        async def on_usage(self, record: Any) -> None:
            records.append(record)

    here = await installed({"m": [at(server)]}, plugins=[("observer", Observer)])
    for _ in range(3):
        await here.client.chat("m")
    await here.gateway.host.shutdown(5.0)
    assert records == await here.records()
