"""The official `openai` client, unmodified, against both servers and real engines.

Every test runs twice: with the blocking client on Hypercorn and with the asynchronous one on
uvicorn. The client decides what is compatible; nothing here parses HTTP.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.types import CreateEmbeddingResponse

from llmgw_core.domain.limits import Limits

from .conftest import QUESTION, TOOL_CALL, ask, items, text_of, value

if TYPE_CHECKING:
    from llmgw_core.testing.tenants import Tenant
    from tests.integration.conftest import RealModels

    from .conftest import Connect

pytestmark = pytest.mark.xdist_group("engine")


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
