"""The whole way with a real language model: real text, its tokens on the books, and what happens
when the client leaves or the engine dies.

The gateway of these tests runs in a thread of its own, on both servers; the engines are real
llama.cpp servers in processes of their own.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.wire.sse import EventSplitter, event_data

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.testing.tenants import Tenant
    from llmgw_llamacpp.engine import Engine

    from .conftest import RealModels

pytestmark = pytest.mark.xdist_group("engine")

QUESTION = "What is the capital of France? Answer in one sentence."
STORY = "Tell a very long story about a lighthouse, a storm and a cat."
LONG = 400
"""Tokens of an answer that is not over when the test acts."""
PATIENCE = 30.0
"""Seconds after which something that should happen counts as not happening."""


@pytest.fixture
def tenant(real_models: RealModels) -> Tenant:
    return real_models.tenant()


@pytest.fixture
def engine(real_models: RealModels) -> Engine:
    return real_models.engine(real_models.CHAT)


class Conversation:
    """One client on one server, byte by byte."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._key = key

    def ask(self, text: str, **fields: Any) -> http.client.HTTPResponse:
        """The reply, of which only the head has been read."""
        body = {
            "model": "smollm2",
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
            **fields,
        }
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return self._connection.getresponse()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(params=["hypercorn", "uvicorn"])
def client(request: pytest.FixtureRequest, real_models: RealModels, tenant: Tenant) -> Any:
    conversation = Conversation(real_models.ports[request.param], tenant.key)
    yield conversation
    conversation.close()


def data_of(body: bytes) -> list[bytes]:
    """The data of the events in `body`, which ends with a whole one."""
    found = [event_data(event) for event in EventSplitter().feed(body)]
    return [data for data in found if data is not None]


def text_in(chunks: list[Any]) -> str:
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks)


def cost_of(models: RealModels, input: int, output: int) -> int:
    """Nano-units by the configured prices, rounded once, half to even."""
    exact = (models.INPUT * input + models.OUTPUT * output) * 1000 + models.CALL * 10**9
    return int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


async def eventually(condition: Callable[[], bool]) -> None:
    """Look until it holds: what is waited for happens in another process or thread."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- other processes set no events
            await asyncio.sleep(0.01)


async def only_record(models: RealModels, tenant: Tenant) -> UsageRecord:
    await eventually(lambda: bool(models.records(tenant)))
    [record] = models.records(tenant)
    return record


def busy_slots(engine: Engine) -> int:
    """How many calls the engine works on, as it says itself."""
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=PATIENCE)
    try:
        headers = {"authorization": f"Bearer {engine.api_key}"}
        connection.request("GET", "/slots", headers=headers)
        return sum(slot["is_processing"] for slot in json.load(connection.getresponse()))
    finally:
        connection.close()


# ---------------------------------------------------------------------------- what it says


def test_the_model_knows_the_capital_of_france_and_the_books_know_the_price(
    client: Conversation, tenant: Tenant, real_models: RealModels
) -> None:
    reply = client.ask(QUESTION, max_tokens=16)
    answer = json.loads(reply.read())
    assert reply.status == 200
    assert "Paris" in answer["choices"][0]["message"]["content"]
    usage = answer["usage"]
    [record] = real_models.records(tenant)
    assert record.call_id == reply.headers["x-request-id"]
    assert (record.status, record.usage.source) == ("completed", "provider")
    assert record.usage.input_tokens == usage["prompt_tokens"]
    assert record.usage.output_tokens == usage["completion_tokens"]
    cost = cost_of(real_models, usage["prompt_tokens"], usage["completion_tokens"])
    assert record.cost == record.charge == cost > 0
    assert (record.served_model, record.deployment) == ("smollm2", "smollm2/here")


def test_a_stream_says_the_same_word_by_word_for_the_same_price(
    client: Conversation, tenant: Tenant, real_models: RealModels
) -> None:
    whole = json.loads(client.ask(QUESTION, max_tokens=16).read())
    reply = client.ask(QUESTION, max_tokens=16, stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, end = data_of(reply.read())
    assert end == b"[DONE]"
    chunks = [json.loads(data) for data in events]
    assert text_in(chunks) == whole["choices"][0]["message"]["content"]
    assert len(chunks) > whole["usage"]["completion_tokens"] / 2
    assert all("usage" not in each for each in chunks)
    first, second = real_models.records(tenant)
    assert second.usage.output_tokens == whole["usage"]["completion_tokens"]
    assert second.usage.input_tokens == whole["usage"]["prompt_tokens"]
    assert second.cost == first.cost
    assert (second.stream, second.usage.source) == (True, "provider")


@pytest.mark.parametrize("output", [1, 2, 3, 4])
def test_half_a_nano_unit_is_rounded_to_the_even_one(
    client: Conversation, tenant: Tenant, real_models: RealModels, output: int
) -> None:
    """An odd number of tokens at 37.5 nano-units costs half a one more."""
    usage = json.loads(client.ask(STORY, max_tokens=output).read())["usage"]
    assert usage["completion_tokens"] == output
    [record] = real_models.records(tenant)
    assert record.cost == cost_of(real_models, usage["prompt_tokens"], output)


# ---------------------------------------------------------------------------- who leaves


async def test_a_client_that_leaves_frees_the_engine_and_pays_for_what_it_got(
    client: Conversation, tenant: Tenant, real_models: RealModels, engine: Engine
) -> None:
    reply = client.ask(STORY, max_tokens=LONG, stream=True)
    received = b"".join(reply.readline() for _ in range(20))
    assert busy_slots(engine) == 1
    assert text_in([json.loads(data) for data in data_of(received)])
    reply.close()
    client.close()
    await eventually(lambda: busy_slots(engine) == 0)
    record = await only_record(real_models, tenant)
    assert (record.status, record.usage.source) == ("client_left", "estimated")
    assert record.usage.input_tokens > 0
    assert 0 < record.usage.output_tokens < LONG
    usage = record.usage
    assert record.cost == cost_of(real_models, usage.input_tokens, usage.output_tokens)


# ---------------------------------------------------------------------------- what dies


class Assassin:
    """Kills an engine and waits for the next one."""

    def __init__(self, models: RealModels, engine: Engine) -> None:
        self._models = models
        self._engine = engine

    def kill(self) -> int:
        """The id of the process that is gone now."""
        pid = self._engine.pid
        os.kill(pid, signal.SIGKILL)
        return pid

    async def noticed(self) -> None:
        """Until the supervisor knows."""
        from llmgw_llamacpp.supervision import State  # a plugin: only who uses it needs it

        await eventually(lambda: self._engine.state is not State.READY)

    async def another(self, than: int) -> None:
        """Until another process than `than` serves."""
        from llmgw_llamacpp.supervision import State  # a plugin: only who uses it needs it

        engine = self._engine
        await eventually(lambda: engine.pid != than and engine.state is State.READY)


@pytest.fixture
async def assassin(real_models: RealModels, engine: Engine) -> AsyncIterator[Assassin]:
    """Leaves a living engine behind."""
    yield Assassin(real_models, engine)
    await Assassin(real_models, engine).another(0)


async def test_an_engine_that_dies_idle_is_missed_for_a_moment_and_then_back(
    client: Conversation, tenant: Tenant, real_models: RealModels, assassin: Assassin
) -> None:
    pid = assassin.kill()
    await assassin.noticed()
    refused = client.ask(QUESTION, max_tokens=16)
    error = json.loads(refused.read())["error"]
    assert (refused.status, error["code"]) == (503, "upstream_unavailable")
    await assassin.another(pid)
    answer = json.loads(client.ask(QUESTION, max_tokens=16).read())
    assert "Paris" in answer["choices"][0]["message"]["content"]
    records = real_models.records(tenant)
    assert [(record.status, record.http_status) for record in records] == [
        ("failed", 503),
        ("completed", 200),
    ]
    assert records[0].cost == 0


async def test_an_engine_that_dies_in_a_stream_ends_it_truthfully_and_comes_back(
    client: Conversation, tenant: Tenant, real_models: RealModels, assassin: Assassin
) -> None:
    reply = client.ask(STORY, max_tokens=LONG, stream=True)
    received = b"".join(reply.readline() for _ in range(20))
    pid = assassin.kill()
    *chunks, last = [json.loads(data) for data in data_of(received + reply.read())]
    assert text_in(chunks)
    assert all(choice["finish_reason"] is None for each in chunks for choice in each["choices"])
    assert last["error"]["code"] == "stream_cut"
    assert last["error"]["request_id"] == reply.headers["x-request-id"]
    record = await only_record(real_models, tenant)
    assert (record.status, record.usage.source) == ("incomplete", "estimated")
    assert 0 < record.usage.output_tokens < LONG
    await assassin.another(pid)
    answer = json.loads(client.ask(QUESTION, max_tokens=16).read())
    assert "Paris" in answer["choices"][0]["message"]["content"]
