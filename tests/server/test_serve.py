"""Serving: binding, the drain, signals, and that the end comes whatever clients do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_server.listening import Listener, ServeError, bind, listen, url_of
from llmgw_server.serve import run

from .conftest import Entrance, read_head, read_reply, reply, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.gateway import Gateway

POST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"

PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
sys.path.insert(0, {root!r})
from llmgw_core.config.schema import Config, ServerConfig
from llmgw_core.pipeline.stats import Stats
from llmgw_server.listening import Listener, bind
from llmgw_server.serve import run

class Entrance:
    config = Config(server=ServerConfig(drain_seconds={drain}))
    stats = Stats()
    readiness = staticmethod(list)
    new_call_id = staticmethod(lambda: "id")
    after_reload = staticmethod(lambda listener: None)
    file = None

    async def handle(self, head, body, sink):
        await body.read(100)
        await sink.start(200, [(b"content-type", b"text/event-stream")])
        await sink.write(b"begun")
        try:
            await asyncio.sleep({seconds})
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
        await sink.finish(b"ended")

@asynccontextmanager
async def opening():
    print("opening", flush=True)
    await asyncio.sleep({opening})
    yield Entrance()
    print("closed", flush=True)

async def ready(gateway, url):
    print(url, flush=True)

run(opening(), [Listener(bind("127.0.0.1", 0))], server={kind!r}, ready=ready)
"""


class Process:
    """A serving process; lines of its output are awaited, not slept for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, **values: Any) -> Process:
        root = str(Path(__file__).parents[2])
        program = PROGRAM.format(
            **{"root": root, "drain": 10, "seconds": 0.3, "opening": 0} | values
        )
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                program,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def begun(self) -> asyncio.StreamReader:
        """One stream in flight."""
        assert await self.line() == "opening"
        port = int((await self.line()).rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer = writer
        writer.write(POST)
        await read_head(reader)
        assert await reader.readexactly(10) == b"5\r\nbegun\r\n"
        return reader

    async def end(self) -> tuple[int, str, str]:
        out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_calls_finish_and_ends_cleanly(
    kind: str, number: signal.Signals
) -> None:
    process = await Process.start(kind=kind)
    reader = await process.begun()
    process.process.send_signal(number)
    assert await reader.readexactly(15) == b"5\r\nended\r\n0\r\n\r\n"
    process.writer.close()
    assert await process.end() == (0, "closed\n", "")


async def test_after_the_drain_calls_are_cancelled_and_the_gateway_still_closes(kind: str) -> None:
    process = await Process.start(kind=kind, drain=0, seconds=60)
    await process.begun()
    process.process.terminate()
    code, out, err = await process.end()
    assert (code, out) == (0, "cancelled\nclosed\n")
    assert "Traceback" not in err
    assert "rror" not in err
    process.writer.close()


async def test_a_second_interrupt_ends_at_once(kind: str) -> None:
    process = await Process.start(kind=kind, seconds=60)
    reader = await process.begun()
    process.process.send_signal(signal.SIGINT)
    await _refused(process)
    process.process.send_signal(signal.SIGINT)
    assert (await process.end())[0] == 130
    assert await reader.read() == b""
    process.writer.close()


async def _refused(process: Process) -> None:
    """Until the listener is closed: the first signal has been seen."""
    host, port = process.writer.get_extra_info("peername")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except ConnectionError:
            return
        writer.close()


async def test_a_signal_while_starting_ends_cleanly() -> None:
    process = await Process.start(kind="hypercorn", opening=60)
    assert await process.line() == "opening"
    process.process.send_signal(signal.SIGINT)
    assert await process.end() == (0, "", "")


async def test_a_hang_up_while_starting_is_no_end() -> None:
    process = await Process.start(kind="hypercorn", opening=60)
    assert await process.line() == "opening"
    process.process.send_signal(signal.SIGHUP)
    process.process.send_signal(signal.SIGTERM)
    assert await process.end() == (0, "", "")


async def test_a_client_that_does_not_read_cannot_hold_up_the_end(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgw_server.serve.GRACE_SECONDS", 1.0)

    async def flood(head: Head, body: Body, sink: Sink) -> None:
        await sink.start(200, [])
        while not sink.gone:
            await sink.write(bytes(1 << 16))

    entrance = Entrance(flood)
    async with running(entrance.application(), kind, drain_seconds=0) as server:
        reader, _ = await server.send(POST)
        await read_head(reader)
        server.stop.set()
        assert isinstance(await entrance.ended.get(), asyncio.CancelledError)
        assert server.serving is not None
        async with asyncio.timeout(20):
            await asyncio.shield(server.serving)


async def test_a_call_that_its_client_has_left_cannot_hold_up_the_end(kind: str) -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def ignores(head: Head, body: Body, sink: Sink) -> None:
        await body.read(100)
        sink.on_gone = left.set
        begun.set()
        await asyncio.Event().wait()

    async with running(Entrance(ignores).application(), kind, drain_seconds=0) as server:
        _, writer = await server.send(b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n")
        await begun.wait()
        writer.transport.abort()
        await left.wait()
        server.stop.set()
        assert server.serving is not None
        await asyncio.wait_for(asyncio.shield(server.serving), 3)


async def test_idle_connections_end_with_the_server(kind: str) -> None:
    async def ok(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"ok")

    async with running(Entrance(ok).application(), kind) as server:
        reader, _ = await server.send(POST)
        await read_reply(reader)
        server.stop.set()
        assert await reader.read() == b""


def test_a_taken_port_is_one_sentence_that_names_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError) as error:
            bind("127.0.0.1", port)
    assert str(error.value) == (
        f"Port {port} on 127.0.0.1 is already in use; choose another with --port."
    )


def test_who_comes_second_between_binding_and_listening_hears_the_same() -> None:
    first = bind("127.0.0.1", 0)
    second = bind("127.0.0.1", first.getsockname()[1])
    listen(first)
    with pytest.raises(ServeError, match="already in use"):
        listen(second)
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("no-such-host.invalid", "is not an address of this machine"),
        ("203.0.113.1", "Cannot listen on 203.0.113.1"),
    ],
)
def test_a_host_that_is_not_ours_is_a_sentence(host: str, sentence: str) -> None:
    with pytest.raises(ServeError, match=sentence):
        bind(host, 0)


def test_a_privileged_port_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Whether port 1 is refused depends on who runs this, and where; the sentence does not.
    monkeypatch.setattr("socket.socket.bind", refused)
    with pytest.raises(ServeError, match="needs privileges"):
        bind("127.0.0.1", 1)


def test_the_url_is_one_that_a_client_on_this_machine_can_use() -> None:
    with bind("0.0.0.0", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    with bind("::1", 0) as listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_a_missing_server_is_a_sentence_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    opened = []

    @contextlib.asynccontextmanager
    async def opening() -> AsyncIterator[Any]:
        opened.append(1)
        yield None

    async def ready(gateway: Gateway, url: str) -> None:
        """Never called."""

    with pytest.raises(ServeError, match="uvicorn is not installed: pip install"):
        run(opening(), [Listener(bind("127.0.0.1", 0))], server="uvicorn", ready=ready)
    assert not opened
