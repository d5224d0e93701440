"""What the official `openai` client raises and repeats when it is refused or an upstream fails."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from llmgw_core.domain.limits import Limits
from llmgw_core.testing.model_server import DONE, JSON, SSE, chat_chunk, event
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

from .conftest import CLOSE, ask, items, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.testing.tenants import Tenant
    from tests.integration.conftest import RealModels

    from .conftest import Connect

pytestmark = pytest.mark.xdist_group("engine")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"stream": "yes"}, "stream"),
    ],
)
async def test_a_field_of_the_wrong_type_is_a_bad_request_that_names_it(
    client: Any, tenant: Tenant, real_models: RealModels, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(client, extra_body=fields)
    assert caught.value.status_code == 400
    assert caught.value.param == param
    assert param in caught.value.message
    assert caught.value.request_id
    assert real_models.records(tenant) == []


async def test_a_refusal_by_the_engine_comes_through_as_a_bad_request(
    client: Any, tenant: Tenant, real_models: RealModels
) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        await ask(client, extra_body={"temperature": "hot"})
    [record] = real_models.records(tenant)
    assert record.call_id == caught.value.request_id
    assert (record.status, record.http_status, record.cost) == ("refused", 400, 0)


@pytest.mark.parametrize("key", ["sk-wrong", "llmgw-" + "A" * 43])
async def test_an_unknown_key_is_an_authentication_error(connect: Connect, key: str) -> None:
    client = connect(key)
    for work in (lambda: ask(client), lambda: items(client.models.list())):
        with pytest.raises(openai.AuthenticationError) as caught:
            await work()
        assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")


async def test_a_model_that_is_unknown_or_not_granted_is_not_found(
    connect: Connect, real_models: RealModels
) -> None:
    client = connect(real_models.tenant(key_models=["scripted"]).key)
    for model in ("gpt-nothing", "smollm2"):
        with pytest.raises(openai.NotFoundError, match=model) as caught:
            await ask(client, model=model)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_zone_that_is_not_allowed_is_a_permission_error(
    connect: Connect, real_models: RealModels
) -> None:
    client = connect(real_models.tenant(zones=["elsewhere"]).key)
    with pytest.raises(openai.PermissionDeniedError, match="zone"):
        await ask(client)


async def test_a_spent_limit_is_a_rate_limit_error_that_says_when_to_come_back(
    connect: Connect, real_models: RealModels
) -> None:
    client = connect(real_models.tenant(limits=Limits(rpm=1)).key)
    await ask(client, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(client, max_tokens=1)
    headers = caught.value.response.headers
    assert (caught.value.status_code, caught.value.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 61
    assert headers["x-ratelimit-remaining-requests"] == "0"


class Attempts:
    """When the client's requests left and their replies came, as its own HTTP client tells."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.replies: list[tuple[float, int]] = []
        self.on_refusal: Callable[[], None] = lambda: None

    def request(self, _request: Any) -> None:
        self.sent.append(time.monotonic())

    def response(self, response: Any) -> None:
        self.replies.append((time.monotonic(), response.status_code))
        if response.status_code == 429:
            self.on_refusal()

    def hooks(self, style: str) -> dict[str, Any]:
        """For either kind of HTTP client."""
        hooks: dict[str, list[Callable[..., Any]]]
        if style == "blocking":
            hooks = {"request": [self.request], "response": [self.response]}
            return {"http_client": DefaultHttpxClient(event_hooks=hooks)}

        def awaited(hook: Callable[[Any], None]) -> Callable[[Any], Awaitable[None]]:
            async def called(argument: Any) -> None:
                hook(argument)

            return called

        hooks = {"request": [awaited(self.request)], "response": [awaited(self.response)]}
        return {"http_client": DefaultAsyncHttpxClient(event_hooks=hooks)}


async def test_the_client_waits_as_long_as_it_was_told_and_then_gets_in(
    style: str, connect: Connect, real_models: RealModels
) -> None:
    """Without `retry-after` the client would come back after less than half a second, too."""
    tenant = real_models.tenant(limits=Limits(parallel=1))
    busy, released = asyncio.Event(), asyncio.Event()

    async def hold(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, (*SSE, CLOSE)))
        await peer.send(chunk(event(chat_chunk({"content": "busy"}))))
        busy.set()
        await released.wait()
        await peer.send(chunk(event(chat_chunk({}, "stop")) + DONE) + chunk(b""))

    real_models.faults = hold
    attempts = Attempts()
    attempts.on_refusal = lambda: real_models.soon(released.set)
    first = connect(tenant.key)
    second = connect(tenant.key, max_retries=1, **attempts.hooks(style))
    stream = await ask(first, model="scripted", stream=True)
    assert busy.is_set()
    reply = await ask(second, max_tokens=1)
    assert reply.choices[0].message.content
    assert text_of(await items(stream)) == "busy"
    assert [status for _, status in attempts.replies] == [429, 200]
    waited = attempts.sent[1] - attempts.replies[0][0]
    assert waited >= 1.0
    assert {record.status for record in real_models.records(tenant)} == {"completed"}


# ---------------------------------------------------------------------------- what fails


SECRET = b'{"error": {"message": "key sk-provider at 10.0.0.1", "type": "x", "code": 1}}'


def answer(status: int, *headers: tuple[bytes, bytes]) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(status, SECRET, (*JSON, CLOSE, *headers)))

    return script


@pytest.mark.parametrize(
    ("upstream", "seen"),
    [
        (500, (502, "upstream_error")),
        (503, (503, "upstream_overloaded")),
        (504, (504, "upstream_timeout")),
        (401, (502, "upstream_credentials_exhausted")),
    ],
)
async def test_a_failing_upstream_is_an_internal_server_error(
    client: Any, tenant: Tenant, real_models: RealModels, upstream: int, seen: tuple[int, str]
) -> None:
    real_models.faults = answer(upstream)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client, model="scripted", stream=stream)
        assert (caught.value.status_code, caught.value.code) == seen
        assert "sk-provider" not in str(caught.value)
    records = real_models.records(tenant)
    assert [(r.status, r.http_status, r.cost) for r in records] == [("failed", seen[0], 0)] * 2


async def test_an_upstreams_own_rate_limit_is_a_rate_limit_error(
    client: Any, real_models: RealModels
) -> None:
    real_models.faults = answer(429, (b"retry-after", b"7"))
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(client, model="scripted")
    assert caught.value.code == "upstream_rate_limited"
    assert caught.value.response.headers["retry-after"] == "7"


async def test_a_stream_that_breaks_raises_after_what_had_arrived(
    client: Any, tenant: Tenant, real_models: RealModels
) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, (*SSE, CLOSE)))
        await peer.send(chunk(event(chat_chunk({"content": "half"}))))
        peer.cut()

    real_models.faults = cut
    stream = await ask(client, model="scripted", stream=True)
    received: list[Any] = []

    async def receive() -> None:
        if hasattr(stream, "__aiter__"):
            async for each in stream:
                received.append(each)  # noqa: PERF401 -- what came before the error counts
        else:
            received.extend(stream)

    with pytest.raises(openai.APIError, match="cut"):
        await receive()
    assert text_of(received) == "half"
    [record] = real_models.records(tenant)
    assert (record.status, record.usage.source) == ("incomplete", "estimated")
    assert record.cost > 0
