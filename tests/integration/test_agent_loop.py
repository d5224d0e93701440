"""An agent that loops, with the official client over sockets, stops by itself: the refusal says
that another try is worth nothing, so its retries do not go on either."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import openai
import pytest

from llmgw_core.config.schema_brake import BrakeConfig
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, at
from llmgw_core.testing.model_server import ModelServer, chat_events, completion, usage_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.installation import Install

    from .conftest import Serve

CHARGE = 9 * INPUT_PRICE + 3 * OUTPUT_PRICE
TURNS = 50
"""What the agent would do if nobody stopped it."""


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.reply = msgspec.json.encode(completion(input=9, output=3))
        server.events = chat_events(usage=usage_object(9, 3))
        yield server


async def agent(port: int, key: str, *, grows: bool) -> tuple[int, openai.APIStatusError | None]:
    """How many of its turns were served, and what has ended it."""
    messages: list[Any] = [{"role": "user", "content": "Find the bug."}]
    url = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=5) as client:
        for turn in range(TURNS):
            try:
                await client.chat.completions.create(model="m", messages=messages, max_tokens=3)
            except openai.APIStatusError as error:
                return turn, error
            if grows:
                messages.append({"role": "assistant", "content": "Let me look."})
                messages.append({"role": "user", "content": f"turn {turn}"})
    return TURNS, None


@pytest.mark.parametrize(
    ("brake", "grows", "served", "code"),
    [
        (BrakeConfig(session_calls=8), True, 8, "run_limit_exceeded"),
        (BrakeConfig(session_repeats=4), False, 4, "loop_detected"),
        (BrakeConfig(key_money=Decimal(5 * CHARGE) / 10**9), True, 5, "run_limit_exceeded"),
        (BrakeConfig(velocity_floor=Decimal(6 * CHARGE) / 10**9), True, 6, "velocity_exceeded"),
        (BrakeConfig(session_calls=8, shadow=("session_calls",)), True, TURNS, None),
    ],
    ids=["calls", "repeats", "money", "velocity", "shadow"],
)
async def test_an_agent_that_loops_stops_by_itself(
    serve: Serve,
    installed: Install,
    server: ModelServer,
    brake: BrakeConfig,
    grows: bool,
    served: int,
    code: str | None,
) -> None:
    here = await installed({"m": [at(server)]}, brake=brake)
    served_by = await serve(here)
    async with asyncio.timeout(20):
        turns, error = await agent(served_by.port, served_by.key, grows=grows)
    refused = sum(here.gateway.stats.refusals.values())
    print(f"{code}: {turns} turns served, {refused} refused, max_retries=5")  # noqa: T201
    assert turns == served
    assert len(server.requests) == served
    if code is None:
        assert (error, refused) == (None, 0)
    else:
        assert error is not None
        assert (error.status_code, error.code, refused) == (429, code, 1)
        assert error.response.headers["x-should-retry"] == "false"


async def test_of_many_agents_at_once_none_gets_past_its_own_bound(
    serve: Serve, installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, brake=BrakeConfig(session_calls=5))
    served_by = await serve(here)
    body = {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]}

    async def loop(session: int) -> list[int]:
        named = (b"x-session-id", b"%d" % session)
        replies = [
            await served_by.post("/v1/chat/completions", msgspec.json.encode(body), named)
            for _ in range(8)
        ]
        return [reply.status for reply in replies]

    found = await asyncio.gather(*(loop(number) for number in range(10)))
    assert all(statuses == [200] * 5 + [429] * 3 for statuses in found)
    assert len(server.requests) == 50
