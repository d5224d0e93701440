"""Calls of an application in the gateway's loop: what they give, raise and leave on the books."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core import GatewayError, Limits, Principal, hookimpl
from llmgw_core.inprocess.refusal import refusal
from llmgw_core.tenancy.records import USER
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at, served_by
from llmgw_core.testing.model_server import JSON, completion
from llmgw_core.testing.upstream import Peer, http_reply

from .conftest import MESSAGES, silent, until_settled

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call, Head
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


async def test_a_chat_gives_the_reply_as_it_came_and_what_it_cost(
    installed: Install, server: ModelServer
) -> None:
    reply = completion("Paris.")
    reply["x_of_the_engine"] = {"seconds": 0.5}
    server.reply = msgspec.json.encode(reply)
    here = await installed({"m": [at(server)]})
    answer = await here.gateway.chat(
        model="m", messages=MESSAGES, key=here.tenant.key, temperature=0, x_own={"a": [1]}
    )
    assert answer == reply
    assert json.loads(json.dumps(answer)) == msgspec.json.decode(msgspec.json.encode(answer))
    assert (answer.text, answer.message["role"]) == ("Paris.", "assistant")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    assert answer.cost == answer.charge == Decimal(7 * INPUT_PRICE + 3 * OUTPUT_PRICE) / 10**9
    [record] = await here.records()
    assert answer.record == record
    assert answer.request_id == record.call_id
    sent = server.bodies[0]
    assert (sent["temperature"], sent["x_own"], sent["messages"]) == (0, {"a": [1]}, MESSAGES)


async def test_a_reply_without_text_has_none(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    caller = here.gateway.caller(key=here.tenant.key)
    for choices in ([], [{"index": 1}], [{"index": 0, "message": {"content": None}}]):
        server.reply = msgspec.json.encode({**completion(), "choices": choices})
        assert (await caller.chat(model="m", messages=MESSAGES)).text == ""


async def test_embeddings_are_vectors_in_the_order_of_the_inputs(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"e": served_by(at(server), kind="embedding")})
    caller = here.gateway.caller(key=here.tenant.key)
    second, first = [0.5, -0.25], "AACAPwAAAEA="
    server.embeddings = msgspec.json.encode(
        {
            "object": "list",
            "data": [{"index": 1, "embedding": second}, {"index": 0, "embedding": first}],
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        }
    )
    reply = await caller.embed(model="e", input=["one", "two"], dimensions=2)
    assert reply.vectors == [[1.0, 2.0], second]
    assert await here.gateway.embed(model="e", input="one", key=here.tenant.key) == reply
    assert reply.usage is not None
    assert reply.usage.input_tokens == 5
    assert server.bodies[0]["dimensions"] == 2


async def test_models_are_those_of_the_caller(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)], "n": [at(server)]})
    principal = Principal.of("us", models=["n"])
    assert [model["id"] for model in await here.gateway.models(key=here.tenant.key)] == ["m", "n"]
    assert [model["id"] for model in await here.gateway.models(principal=principal)] == ["n"]


async def test_what_the_official_client_gave_may_be_sent_again(
    installed: Install, server: ModelServer
) -> None:
    from openai.types.chat import ChatCompletionMessage

    here = await installed({"m": [at(server)]})
    caller = here.gateway.caller(key=here.tenant.key)
    said = ChatCompletionMessage(role="assistant", content="Hi.")
    await caller.chat(model="m", messages=[said, *MESSAGES])
    assert server.bodies[0]["messages"] == [{"role": "assistant", "content": "Hi."}, *MESSAGES]
    with pytest.raises(TypeError, match="cannot hold object objects"):
        await caller.chat(model="m", messages=[object()])


async def test_a_refusal_is_raised_with_everything_that_a_client_is_told(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"limits": Limits(rpm=1)})
    caller = here.gateway.caller(key=here.tenant.key)
    with pytest.raises(GatewayError, match="does not exist") as unknown:
        await caller.chat(model="x", messages=MESSAGES)
    error = unknown.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.request_id.startswith("req_")
    assert error.should_retry is False
    await caller.chat(model="m", messages=MESSAGES)
    with pytest.raises(GatewayError) as limited:
        await caller.chat(model="m", messages=MESSAGES)
    assert (limited.value.status, limited.value.type) == (429, "rate_limit_error")
    assert limited.value.retry_after is not None
    assert 1 <= limited.value.retry_after <= 61
    with pytest.raises(GatewayError) as stranger:
        await here.gateway.models(key="sk-wrong")
    assert stranger.value.status == 401
    with pytest.raises(GatewayError) as nobody:
        await here.gateway.chat(model="m", messages=MESSAGES)
    assert nobody.value.status == 401
    assert len(await here.records()) == 1


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'{"error": {"message": "too hot", "code": "c", "param": "t"}}', "c", "too hot"),
        (b'{"error": "too hot"}', "upstream_refused", "too hot"),
        (b'{"error": {}}', "upstream_refused", "The model's backend refused the request."),
    ],
)
async def test_an_upstreams_own_words_are_raised_whatever_their_shape(
    installed: Install, server: ModelServer, body: bytes, code: str, message: str
) -> None:
    server.status, server.reply = 400, body
    here = await installed({"m": [at(server)]})
    with pytest.raises(GatewayError) as caught:
        await here.gateway.chat(model="m", messages=MESSAGES, key=here.tenant.key)
    assert (caught.value.status, caught.value.code, caught.value.message) == (400, code, message)
    [record] = await here.records()
    assert record.call_id == caught.value.request_id


@pytest.mark.parametrize("body", [b"[]", b"<html>", b"", b"[" * 100_000])
def test_a_refusal_that_is_no_envelope_is_one_nevertheless(body: bytes) -> None:
    error = refusal(418, {"retry-after": "soon"}, body)
    assert (error.status, error.retry_after, error.should_retry) == (418, None, None)
    assert error.message == "The request was refused with status 418."


async def test_a_reply_that_a_plugin_has_spoilt_is_an_error(
    installed: Install, server: ModelServer
) -> None:
    class Spoils:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def post_process(self, reply: Any) -> Any:
            return msgspec.structs.replace(reply, body=b"[1, 2]")

    here = await installed({"m": [at(server)]}, plugins=[("spoils", Spoils)])
    with pytest.raises(GatewayError, match="cannot be read") as caught:
        await here.gateway.chat(model="m", messages=MESSAGES, key=here.tenant.key)
    assert caught.value.status == 502
    assert caught.value.request_id


async def test_plugins_see_the_headers_of_a_call(installed: Install, server: ModelServer) -> None:
    seen: list[bytes | None] = []

    class Looks:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def pre_auth(self, head: Head, call: Call) -> None:
            seen.append(head.get(b"x-session"))

    here = await installed({"m": [at(server)]}, plugins=[("looks", Looks)])
    caller = here.gateway.caller(key=here.tenant.key)
    given = {"X-Session": "ärger"}
    await caller.chat(model="m", messages=MESSAGES, headers=given)
    async with caller.chat_stream(model="m", messages=MESSAGES, headers=given):
        pass
    await caller.models(headers=given)
    assert seen == ["ärger".encode()] * 3


async def test_arguments_that_contradict_each_other_are_refused(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    with pytest.raises(TypeError, match="not both"):
        here.gateway.caller(key="k", principal=Principal.of("us"))
    with pytest.raises(TypeError, match="chat_stream"):
        await here.gateway.chat(model="m", messages=MESSAGES, stream=True)


async def test_another_event_loop_is_told_what_to_do(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    said: list[str] = []

    async def call() -> None:
        with pytest.raises(RuntimeError) as caught:
            await here.client.gateway.chat(model="m", messages=MESSAGES, key=here.tenant.key)
        said.append(str(caught.value))

    await asyncio.to_thread(lambda: asyncio.run(call()))
    assert "SyncGateway" in said[0]


async def test_many_calls_at_once_settle_each_once(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    caller = here.gateway.caller(key=here.tenant.key)

    async def stream() -> str:
        async with caller.chat_stream(model="m", messages=MESSAGES) as events:
            async for _ in events:
                pass
        return events.request_id

    async def whole() -> str:
        return (await caller.chat(model="m", messages=MESSAGES)).request_id

    ids = await asyncio.gather(*(stream() if n % 2 else whole() for n in range(100)))
    records = await here.records()
    assert {record.call_id for record in records} == set(ids)
    assert len(ids) == len(records) == 100
    assert {record.status for record in records} == {"completed"}


async def test_a_call_whose_waiter_gives_up_is_charged_as_one_whose_client_left(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(silent)
    here = await installed({"m": [at(upstream)]})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await here.gateway.chat(model="m", messages=MESSAGES, key=here.tenant.key)
    [record] = await here.records()
    assert (record.status, record.http_status) == ("client_left", 499)
    assert record.charge == record.usage.input_tokens * INPUT_PRICE > 0
    await upstream.until(lambda: upstream.open == 0)


async def test_a_draining_deployment_goes_on_without_its_waiter(
    installed: Install, scripted: Scripted
) -> None:
    given_up = asyncio.Event()

    async def late(peer: Peer) -> None:
        await peer.request()
        await given_up.wait()
        await peer.send(http_reply(200, msgspec.json.encode(completion(input=20)), JSON))

    upstream = await scripted(late)
    here = await installed({"m": [at(upstream, on_disconnect="drain")]})
    task = asyncio.create_task(here.gateway.chat(model="m", messages=MESSAGES, key=here.tenant.key))
    await upstream.until(lambda: bool(upstream.requests))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert here.gateway.books.open
    given_up.set()
    await until_settled(here.gateway)
    [record] = await here.records()
    assert (record.status, record.usage.source) == ("client_left", "provider")
    assert record.usage.input_tokens == 20


STEPS = 60


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_at_every_step_leaves_the_books_in_order(
    installed: Install, server: ModelServer, streamed: bool
) -> None:
    limits = Limits(rpm=100_000, parallel=1)
    here = await installed({"m": [at(server)]}, tenant={"limits": limits})
    caller = here.gateway.caller(key=here.tenant.key)
    ended = 0

    async def one() -> None:
        if not streamed:
            await caller.chat(model="m", messages=MESSAGES)
            return
        async with caller.chat_stream(model="m", messages=MESSAGES) as events:
            async for _ in events:
                await asyncio.sleep(0)

    for steps in range(STEPS):
        task = asyncio.create_task(one())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        ended += not task.cancelled()
        await until_settled(here.gateway)
    records = await here.records()
    assert len({record.call_id for record in records}) == len(records)
    assert {record.status for record in records} <= {"completed", "client_left"}
    assert ended < STEPS  # however busy the machine is, some were cancelled
    await one()
    # The one parallel slot is free: what was reserved is settled.
    assert (await caller.chat(model="m", messages=MESSAGES)).text == "Hello there"


async def test_closing_ends_the_calls_that_run_and_refuses_others(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(silent)
    here = await installed({"m": [at(upstream)]})
    caller = here.gateway.caller(key=here.tenant.key)
    running = asyncio.create_task(caller.chat(model="m", messages=MESSAGES))
    await upstream.until(lambda: bool(upstream.requests))
    await here.gateway.calls.aclose()
    await here.gateway.calls.aclose()
    for call in (running, caller.chat(model="m", messages=MESSAGES)):
        with pytest.raises(GatewayError) as caught:
            await call
        assert (caught.value.status, caught.value.code) == (503, "gateway_closed")
    [record] = await here.records()
    assert (record.status, record.error_code) == ("failed", "interrupted")


async def test_a_principal_of_names_is_as_current_as_a_key(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    gateway, tenant = here.gateway, here.tenant
    for names in ({}, {"team": "team"}, {"user": tenant.user_id}, {"team": "team", "user": "user"}):
        principal = await gateway.principal("acme", **names)
        assert principal is await gateway.principal("acme", **names)
        reply = await gateway.chat(model="m", messages=MESSAGES, principal=principal)
        assert reply.record is not None
        assert reply.record.organization_id == tenant.organization_id
    await gateway.tenancy.disable(USER, "user", actor="test")
    await gateway.principals.poll()
    for names in ({"user": "user"}, {"team": "nobody"}):
        with pytest.raises(GatewayError, match="no such caller") as caught:
            await gateway.principal("acme", **names)
        assert (caught.value.status, caught.value.code) == (401, "unknown_caller")


async def test_an_application_makes_principals_of_its_own(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)], "n": [at(server, zone="world")]})
    ours = Principal.of(
        "us", team="t", user="u-7", models=["m", "n"], zones=["onprem"], limits=Limits(rpm=1)
    )
    reply = await here.gateway.chat(model="m", messages=MESSAGES, principal=ours)
    assert reply.record is not None
    owner = reply.record
    assert (owner.organization_id, owner.team_id, owner.user_id, owner.key_id) == (
        *("us", "t", "u-7"),
        None,
    )
    statuses = []
    for model in ("n", "m"):
        with pytest.raises(GatewayError) as caught:
            await here.gateway.chat(model=model, messages=MESSAGES, principal=ours)
        statuses.append(caught.value.status)
    assert statuses == [403, 429]


@pytest.mark.parametrize("id", ["", "x" * 81, "line\n"])
def test_ids_that_the_books_cannot_hold_are_refused_at_once(id: str) -> None:
    with pytest.raises(ValueError, match="of the organization has to be"):
        Principal.of(id)
    with pytest.raises(ValueError, match="of the user has to be"):
        Principal.of("us", user=id)


@pytest.mark.parametrize("field", ["models", "zones"])
def test_one_text_is_no_list_of_texts(field: str) -> None:
    with pytest.raises(TypeError, match="lists of texts"):
        Principal.of("us", **{field: "gpt-4o"})  # type: ignore[arg-type]
