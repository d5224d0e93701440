"""The official `openai` client in both styles: blocking on Hypercorn, asynchronous on uvicorn."""

from __future__ import annotations

import inspect
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, OpenAI

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from llmgw_core.testing.tenants import Tenant
    from tests.integration.conftest import RealModels

    Connect = Callable[..., Any]

QUESTION: list[Any] = [
    {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
]
SERVERS = {"blocking": "hypercorn", "asynchronous": "uvicorn"}
TOOL_CALL: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "engine" / "toolcall.json").read_text(encoding="utf-8")
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
