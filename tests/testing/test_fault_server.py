"""The upstream that fails does what its faults' names say, and reports what it gave."""

from __future__ import annotations

import asyncio
import json
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from llmgw_core.testing.faults.catalog import FAULTS, UnknownFault, fault
from llmgw_core.testing.faults.control import Control
from llmgw_core.testing.faults.fixtures import fault_server, fault_servers  # noqa: F401
from llmgw_core.testing.faults.performance import Ask, good
from llmgw_core.testing.faults.scenario import SCENARIOS, Draws, Scenario
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.model_server import chat_events, completion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DOCUMENT = msgspec.json.encode(completion())
NOW = 1_800_000_000.0


def asked(*, stream: bool) -> Ask:
    return Ask(stream, DOCUMENT, tuple(chat_events()), NOW)


class Got(NamedTuple):
    head: bytes
    body: bytes
    end: str


async def exchange(
    server: Any, method: str = "POST", path: str = "/v1/chat/completions", **body: Any
) -> Got:
    """One request, and everything that comes until the connection ends or is silent."""
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
    except ConnectionRefusedError:
        return Got(b"", b"", "refused")
    data = json.dumps(body).encode() if body else b""
    head = f"{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    seen, end = b"", "close"
    try:
        writer.write(head.encode() + data)
        while True:
            async with asyncio.timeout(0.3):
                more = await reader.read(65536)
            if not more:
                break
            seen += more
    except TimeoutError:
        end = "silent"
    except ConnectionError:
        end = "reset"
    writer.close()
    first, _, rest = seen.partition(b"\r\n\r\n")
    return Got(first, rest, end)


async def ask(server: Any, *, stream: bool = False, model: str = "m") -> Got:
    return await exchange(server, model=model, stream=stream, messages=[])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_what_a_fault_sends_fits_its_effect(name: str, stream: bool) -> None:
    it = FAULTS[name]
    performance = it.make(asked(stream=stream))
    effect = it.stream if stream else it.complete
    tokens = sum(piece.tokens for piece in performance.pieces)
    usage = [piece.usage for piece in performance.pieces if piece.usage]
    if effect == "delivers":
        assert (performance.status, performance.then, bool(tokens)) == (200, "next", True)
        assert usage == [{"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}]
    elif effect == "refuses":
        assert performance.status in {400, 404, 413, 422}
        assert (performance.then, tokens) == ("next", 0)
    elif effect == "cuts":
        assert stream
        assert performance.status == 200
        assert tokens
        assert b"[DONE]" not in performance.data or name == "long-body"
    else:
        broken = {"broken-chunks", "huge-head", "long-body", "short-body", "stream-for-json"}
        assert name in broken or not tokens


def test_byte_for_byte_is_any_byte_of_the_reply() -> None:
    whole = good(asked(stream=True)).data
    for position in range(len(whole) + 1):
        stopped = fault(f"stall@{position}").make(asked(stream=True))
        assert (stopped.data, stopped.then) == (whole[:position], "hold")
    words = sum(piece.tokens for piece in stopped.pieces)
    assert words == 2


def test_what_nobody_knows_is_told_with_what_there_is() -> None:
    with pytest.raises(UnknownFault, match="There is no fault 'oops'; there are ok, refuse, "):
        fault("oops")
    assert fault("418").make(asked(stream=False)).status == 418


def test_limits_are_told_in_every_form() -> None:
    heads = {
        name: FAULTS[name].make(asked(stream=False)).data.partition(b"\r\n\r\n")[0].decode()
        for name in FAULTS
        if name.startswith("429")
    }
    assert "retry-after" not in heads["429"]
    assert "retry-after: 1" in heads["429-seconds"]
    assert "retry-after-ms: 250" in heads["429-ms"]
    date = heads["429-date"].rpartition("retry-after: ")[2]
    assert parsedate_to_datetime(date).timestamp() == NOW + 2
    assert "x-ratelimit-reset-requests: 1s" in heads["429-reset"]
    assert f"x-ratelimit-reset: {NOW + 2:.0f}" in heads["429-epoch"]


@pytest.mark.parametrize(
    ("name", "end", "start"),
    [
        ("ok", "close", b"HTTP/1.1 200"),
        ("refuse", "refused", b""),
        ("reset-on-accept", "reset", b""),
        ("not-http", "", b"SSH-2.0"),
        ("reset", "reset", b""),
        ("close", "close", b""),
        ("stall", "silent", b""),
        ("stall-in-head", "silent", b"HTTP/1.1 200"),
        ("close-after-head", "close", b"HTTP/1.1 200"),
        ("503", "close", b"HTTP/1.1 503"),
        ("html-502", "close", b"HTTP/1.1 502"),
    ],
)
async def test_a_fault_looks_like_it_on_the_wire(name: str, end: str, start: bytes) -> None:
    async with FaultServer(name) as server:
        got = await ask(server)
    assert got.head.startswith(start)
    assert got.end == end or not end


async def test_what_was_given_is_on_record(fault_server: FaultServer) -> None:  # noqa: F811
    await fault_server.use(["ok", "reset-late", "429", "ok"])
    for stream in (True, True, False, False):
        await ask(fault_server, stream=stream)
    first, cut, limited, last = fault_server.calls
    assert (first.status, first.tokens, first.whole) == (200, 2, True)
    assert (
        first.usage
        == last.usage
        == {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
        }
    )
    assert (cut.fault, cut.tokens, cut.usage) == ("reset-late", 1, None)
    assert (limited.status, limited.tokens, limited.model) == (429, 0, "m")
    assert len(fault_server.requests) == 4


async def test_a_client_that_leaves_ends_a_stall_and_so_does_a_release(
    fault_servers: Callable[..., Awaitable[FaultServer]],  # noqa: F811
) -> None:
    server = await fault_servers("stall")
    await ask(server)
    await server.until(lambda: server._upstream.open == 0)
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(b"POST /v1/x HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
    await server.until(lambda: len(server.calls) == 2)
    server.release()
    assert await reader.read() == b""
    writer.close()


async def test_a_server_that_refuses_comes_back_on_its_port() -> None:
    async with FaultServer("refuse") as server:
        assert (await ask(server)).end == "refused"
        await server.use("ok")
        assert (await ask(server)).head.startswith(b"HTTP/1.1 200")
        reader, writer = await asyncio.open_connection(server.host, server.port)
        await server.until(lambda: server._upstream.open == 1)
        await server.use("refuse")
        await server.use("refuse")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        assert (await ask(server)).end == "refused"
    async with FaultServer(Scenario(requests=("ok",), always="refuse")) as server:
        ends = [(await ask(server)).end for _ in range(3)]
    assert ends == ["close", "reset", "refused"]


async def test_the_model_chooses_the_fault() -> None:
    async with FaultServer("500") as server:
        assert b" 200 " in (await ask(server, model="fault-ok")).head
        assert b" 529 " in (await ask(server, model="fault-529")).head
        got = await ask(server, model="fault-of-nobody")
        assert b" 400 " in got.head
        assert b"There is no fault 'of-nobody'" in got.body
        names = {
            each["id"]
            for each in json.loads((await exchange(server, "GET", "/v1/models")).body)["data"]
        }
        assert (await exchange(server, "GET", "/health")).head.startswith(b"HTTP/1.1 200")
    assert names == {"ok", *(f"fault-{name}" for name in FAULTS if name != "refuse")}


async def test_a_function_chooses_the_fault() -> None:
    async with FaultServer(lambda request: "404" if b"bad" in request.body else "ok") as server:
        assert b" 404 " in (await ask(server, model="bad")).head
        assert b" 200 " in (await ask(server)).head


async def test_embeddings_and_nonsense_are_answered_too() -> None:
    async with FaultServer() as server:
        got = await exchange(server, path="/v1/embeddings", model="m", input="x", stream=True)
        assert json.loads(got.body)["data"][0]["embedding"] == [0.5, -0.25]
        assert b" 200 " in (await exchange(server)).head
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"nonsense\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


def test_shares_are_kept_and_repeat_themselves() -> None:
    scenario = Scenario(requests=("429",), share={"503": 0.25, "reset": 0.25}, seed=3)

    def run() -> list[str]:
        draws = Draws(scenario)
        return [draws.take().name for _ in range(4001)]

    first = run()
    assert first == run()
    assert first[0] == "429"
    assert first.count("503") == pytest.approx(1000, rel=0.15)
    assert first.count("ok") == pytest.approx(2000, rel=0.1)
    assert {Draws(each).due().name for each in SCENARIOS.values()} <= set(FAULTS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"always": "oops"}, "no fault 'oops'"),
        ({"requests": ("refuse",)}, "write always: refuse"),
        ({"share": {"503": 0.7, "500": 0.7}}, "together at most 1"),
        ({"share": {"503": -1.0}}, "probabilities"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenario(**fields)


async def test_another_process_can_be_in_control() -> None:
    async with FaultServer() as server, Control(server) as control:

        async def tell(method: str, path: str, **body: Any) -> Any:
            control_at = type("At", (), {"host": server.host, "port": control.port})
            got = await exchange(control_at, method, path, **body)
            return got.head.split()[1], got.body

        status, text = await tell("GET", "/")
        assert status == b"200"
        assert b"PUT    /scenario" in text
        assert b"comments-stall" in text
        assert (await tell("PUT", "/scenario", always="refuse"))[0] == b"200"
        assert (await ask(server)).end == "refused"
        assert json.loads((await tell("GET", "/scenario"))[1])["always"] == "refuse"
        status, text = await tell("PUT", "/scenario", always="oops")
        assert status == b"400"
        assert b"There is no fault 'oops'" in text
        assert (await tell("PUT", "/scenario", sometimes="ok"))[0] == b"400"
        await tell("PUT", "/scenario", requests=["429"])
        await ask(server)
        [call] = json.loads((await tell("GET", "/calls"))[1])
        assert (call["fault"], call["status"]) == ("429", 429)
        assert (await tell("DELETE", "/calls"))[1] == b"[]"
        assert (await tell("POST", "/release"))[0] == b"200"
        assert (await tell("GET", "/nowhere"))[0] == b"404"
        described = {each["name"]: each for each in json.loads((await tell("GET", "/faults"))[1])}
        assert described["no-end"]["stream"] == "cuts"


async def test_a_scenario_can_be_told_by_its_name() -> None:
    async with FaultServer() as server, Control(server) as control:
        reader, writer = await asyncio.open_connection("127.0.0.1", control.port)
        writer.write(b"PUT /scenario HTTP/1.1\r\ncontent-length: 9\r\n\r\nthrottled")
        assert b" 200 " in await reader.readline()
        writer.write(b"oops\r\n\r\n")
        writer.close()
        assert server.scenario == SCENARIOS["throttled"]
