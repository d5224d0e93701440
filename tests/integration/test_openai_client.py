"""The official `openai` client, unmodified, against both servers and real engines.

Every test runs twice: with the blocking client on Hypercorn and with the asynchronous one on
uvicorn. The client decides what is compatible; nothing here parses HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import struct
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
from openai.types import CreateEmbeddingResponse

from llmgw_core.domain.access import Limits
from llmgw_core.testing.model_server import DONE, JSON, SSE, chat_chunk, event
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from llmgw_core.testing.tenants import Tenant

    from .conftest import RealModels

    Connect = Callable[..., Any]

pytestmark = pytest.mark.xdist_group("engine")

QUESTION: list[Any] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]
SERVERS = {"blocking": "hypercorn", "asynchronous": "uvicorn"}
TOOL_CALL: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "engine" / "toolcall.json").read_text(encoding="utf-8")
)


CLOSE = (b"connection", b"close")
"""In every scripted reply: the next test's call must not end up with this test's script."""


async def value(result: Any) -> Any:
    """What either client's call gives."""
    return await result if inspect.isawaitable(result) else result


async def items(result: Any) -> list[Any]:
    """The parts of what either client streams."""
    # A page of the asynchronous client may be awaited and iterated over; a call only awaited.
    stream = result if hasattr(result, "__aiter__") else await value(result)
    if hasattr(stream, "__aiter__"):
        return [item async for item in stream]
    return list(stream)


@pytest.fixture(params=sorted(SERVERS))
def style(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
async def connect(style: str, real_models: RealModels) -> AsyncIterator[Connect]:
    """Makes clients of the style; closed by the fixture."""
    async with AsyncExitStack() as stack:

        def made(key: str, **options: Any) -> OpenAI | AsyncOpenAI:
            url = f"http://127.0.0.1:{real_models.ports[SERVERS[style]]}/v1"
            settings = {"api_key": key, "base_url": url, "max_retries": 0, **options}
            if style == "blocking":
                return stack.enter_context(OpenAI(**settings))
            client = AsyncOpenAI(**settings)
            stack.push_async_callback(client.close)
            return client

        yield made


@pytest.fixture
def tenant(real_models: RealModels) -> Tenant:
    return real_models.tenant()


@pytest.fixture
def client(connect: Connect, tenant: Tenant) -> Any:
    return connect(tenant.key)


async def ask(client: Any, **fields: Any) -> Any:
    settings: dict[str, Any] = {"model": "smollm2", "max_tokens": 12, "temperature": 0}
    return await value(
        client.chat.completions.create(**{**settings, "messages": QUESTION, **fields})
    )


def text_of(chunks: Iterable[Any]) -> str:
    return "".join(
        choice.delta.content or "" for each in chunks for choice in each.choices if choice.delta
    )


# ---------------------------------------------------------------------------- what works


async def test_chat_gives_real_text_and_its_usage_is_on_the_books(
    client: Any, tenant: Tenant, real_models: RealModels
) -> None:
    reply = await ask(client)
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    [record] = real_models.records(tenant)
    assert (record.status, record.usage.source) == ("completed", "provider")
    assert record.usage.input_tokens == reply.usage.prompt_tokens > 0
    assert record.usage.output_tokens == reply.usage.completion_tokens > 0
    assert record.usage.cached_input_tokens == reply.usage.prompt_tokens_details.cached_tokens
    assert record.call_id == reply._request_id


@pytest.mark.parametrize("wanted", [True, False, None])
async def test_a_stream_says_the_same_and_shows_usage_only_when_asked(
    client: Any, tenant: Tenant, real_models: RealModels, wanted: bool | None
) -> None:
    whole = await ask(client)
    options = {} if wanted is None else {"stream_options": {"include_usage": wanted}}
    chunks = await items(ask(client, stream=True, **options))
    assert text_of(chunks) == whole.choices[0].message.content
    assert len([each for each in chunks if text_of([each])]) > 1
    shown = [each.usage for each in chunks if each.usage is not None]
    first, second = real_models.records(tenant)
    assert second.stream
    assert second.usage.source == "provider"
    assert second.usage.output_tokens == first.usage.output_tokens
    assert second.usage.input_tokens == whole.usage.prompt_tokens
    if wanted:
        [usage] = shown
        assert second.usage.input_tokens == usage.prompt_tokens
        assert second.usage.output_tokens == usage.completion_tokens
    else:
        assert shown == []
        assert all(each.choices for each in chunks)


async def test_a_tool_is_called(client: Any) -> None:
    reply = await ask(client, **TOOL_CALL)
    assert reply.choices[0].finish_reason == "tool_calls"
    [call] = reply.choices[0].message.tool_calls
    assert call.function.name == "read_thermometer"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


async def test_a_tool_call_is_streamed_in_pieces(client: Any) -> None:
    chunks = await items(ask(client, **TOOL_CALL, stream=True))
    pieces = [
        piece
        for each in chunks
        for choice in each.choices
        for piece in choice.delta.tool_calls or ()
    ]
    assert "".join(piece.function.name or "" for piece in pieces) == "read_thermometer"
    arguments = [piece.function.arguments for piece in pieces if piece.function.arguments]
    assert len(arguments) > 1
    assert json.loads("".join(arguments)) == {"city": "Paris"}
    assert [c.finish_reason for each in chunks for c in each.choices][-1] == "tool_calls"


async def test_the_clients_own_accumulator_puts_a_streamed_tool_call_together(
    client: Any,
) -> None:
    request = json.loads(json.dumps(TOOL_CALL))
    function = request["tools"][0]["function"]
    function["strict"] = True
    function["parameters"]["additionalProperties"] = False
    managed = client.chat.completions.stream(**request)
    if hasattr(managed, "__aenter__"):
        async with managed as stream:
            kinds = {each.type async for each in stream}
            reply = await stream.get_final_completion()
    else:
        with managed as stream:
            kinds = {each.type for each in stream}
            reply = stream.get_final_completion()
    assert {"chunk", "tool_calls.function.arguments.delta"} <= kinds
    [call] = reply.choices[0].message.tool_calls
    assert call.function.parsed_arguments == {"city": "Paris"}


@pytest.mark.parametrize(
    ("given", "count"),
    [("Hello", 1), (["Hello", "world"], 2), ([1, 2, 3], 1), ([[1, 2], [3, 4]], 2)],
    ids=["string", "strings", "tokens", "arrays of tokens"],
)
async def test_embeddings_are_the_same_as_floats_and_as_base64(
    client: Any, tenant: Tenant, real_models: RealModels, given: Any, count: int
) -> None:
    create, model = client.embeddings.create, "smollm2-embedding"
    decoded = await value(create(model=model, input=given))  # base64, decoded by the client
    floats = await value(create(model=model, input=given, encoding_format="float"))
    encoded = await value(create(model=model, input=given, encoding_format="base64"))
    assert len(decoded.data) == len(floats.data) == len(encoded.data) == count
    for one, other, raw in zip(decoded.data, floats.data, encoded.data, strict=True):
        assert len(one.embedding) == 576
        assert other.embedding == pytest.approx(one.embedding, abs=1e-6)
        assert isinstance(raw.embedding, str)
        unpacked = struct.unpack("<576f", base64.b64decode(raw.embedding))
        assert unpacked == pytest.approx(one.embedding, abs=1e-6)
    records = real_models.records(tenant)
    replies = [decoded, floats, encoded]
    assert [r.usage.input_tokens for r in records] == [r.usage.prompt_tokens for r in replies]
    assert {record.usage.output_tokens for record in records} == {0}
    assert {record.usage.source for record in records} == {"provider"}


async def test_the_singular_path_for_embeddings_works_too(client: Any) -> None:
    body = {"model": "smollm2-embedding", "input": "Hello", "encoding_format": "float"}
    short = await value(client.post("/embedding", body=body, cast_to=CreateEmbeddingResponse))
    usual = await value(client.embeddings.create(**body))
    assert short.data[0].embedding == pytest.approx(usual.data[0].embedding, abs=1e-6)


async def test_models_are_those_that_the_caller_may_use(
    connect: Connect, real_models: RealModels
) -> None:
    narrow = connect(real_models.tenant(key_models=["smollm2"]).key)
    wide = connect(real_models.tenant().key)
    assert [model.id for model in await items(narrow.models.list())] == ["smollm2"]
    names = {model.id for model in await items(wide.models.list())}
    assert names == {"smollm2", "smollm2-embedding", "scripted"}
    assert (await value(narrow.models.retrieve("smollm2"))).id == "smollm2"
    with pytest.raises(openai.NotFoundError):
        await value(narrow.models.retrieve("scripted"))


async def test_raw_replies_show_the_request_id_and_what_is_left_of_the_limits(
    connect: Connect, real_models: RealModels
) -> None:
    tenant = real_models.tenant(limits=Limits(rpm=10, tpm=5000))
    create = connect(tenant.key).chat.completions.with_raw_response.create
    reply = await value(create(model="smollm2", messages=QUESTION, max_tokens=2, temperature=0))
    [record] = real_models.records(tenant)
    used = record.usage.input_tokens + record.usage.output_tokens
    headers = reply.headers
    assert headers["x-request-id"] == record.call_id
    assert headers["x-ratelimit-limit-requests"] == "10"
    assert headers["x-ratelimit-remaining-requests"] == "9"
    assert headers["x-ratelimit-limit-tokens"] == "5000"
    assert headers["x-ratelimit-remaining-tokens"] == str(5000 - used)
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    assert reply.parse().usage.total_tokens == used


# ---------------------------------------------------------------------------- what is refused


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


# ---------------------------------------------------------------------------- the older client

SMOKE = """
import asyncio, sys
import openai

url, key = sys.argv[1:3]
assert openai.__version__.startswith("2."), openai.__version__
question = [{"role": "user", "content": sys.argv[3]}]
settings = dict(model="smollm2", messages=question, max_tokens=12, temperature=0)
client = openai.OpenAI(base_url=url, api_key=key)
whole = client.chat.completions.create(**settings).choices[0].message.content
assert "Paris" in whole, whole
parts = client.chat.completions.create(**settings, stream=True)
assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
vector = client.embeddings.create(model="smollm2-embedding", input="Hello").data[0].embedding
assert len(vector) == 576
assert {"smollm2"} < {model.id for model in client.models.list()}
try:
    client.chat.completions.create(**{**settings, "model": "nothing"})
except openai.NotFoundError as error:
    assert error.code == "model_not_found"
else:
    raise AssertionError("an unknown model was found")


async def again():
    async with openai.AsyncOpenAI(base_url=url, api_key=key) as client:
        reply = await client.chat.completions.create(**settings)
        assert reply.choices[0].message.content == whole


asyncio.run(again())
"""


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_client_of_the_previous_generation_works(
    tmp_path: Path, tenant: Tenant, real_models: RealModels
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    python = str(tmp_path / "bin" / "python")
    install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "openai>=2,<3"]
    subprocess.run([python, *install], check=True)
    for port in real_models.ports.values():
        given = [f"http://127.0.0.1:{port}/v1", tenant.key, QUESTION[0]["content"]]
        subprocess.run([python, "-c", SMOKE, *given], check=True, timeout=120)
    assert len(real_models.records(tenant)) == 4 * len(SERVERS)
