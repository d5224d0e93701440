"""The application around the adapter: health, metrics, envelopes, lifespan, request ids."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from llmgw_core.config.schema import Config, PluginConfig
from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import hookimpl
from llmgw_server.app import Application, create_app

from .conftest import Entrance, Running, read_reply, reply, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping
    from pathlib import Path

    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.hooks.context import PluginContext


async def ok(head: Head, body: Body, sink: Sink) -> None:
    await reply(sink, head.path.encode())


def get(path: str, extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: a\r\n{extra}\r\n".encode()


async def test_health_says_live_and_ready_or_why_not(kind: str) -> None:
    entrance = Entrance(ok)
    async with running(entrance.application(), kind) as server:
        status, headers, body = await server.exchange(get("/health/live"))
        assert (status, json.loads(body)) == (200, {"status": "live"})
        assert headers["x-request-id"] == "call-1"
        status, _, body = await server.exchange(get("/health/ready"))
        assert (status, json.loads(body)) == (200, {"status": "ready"})
        entrance.told.append("A part of the journal could not be read.")
        status, _, body = await server.exchange(get("/health/ready"))
        assert (status, json.loads(body)["notices"]) == (200, entrance.told)
        entrance.reasons.append("The journal cannot be written.")
        status, _, body = await server.exchange(get("/health/ready"))
        assert status == 503
        assert json.loads(body)["reasons"] == ["The journal cannot be written."]


async def test_everything_under_v1_is_the_cores_and_nothing_else(kind: str) -> None:
    async with running(Entrance(ok).application(), kind) as server:
        assert (await server.exchange(get("/v1/health/live")))[2] == b"/v1/health/live"
        for path in ("/v1", "/v2/models", "/"):
            status, headers, body = await server.exchange(get(path))
            error = json.loads(body)["error"]
            assert (status, error["code"], error["type"]) == (
                404,
                "not_found",
                "invalid_request_error",
            )
            assert error["request_id"] == headers["x-request-id"]
            assert headers["content-type"] == "application/json"


async def test_a_wrong_method_is_a_405_with_allow_in_the_envelope(kind: str) -> None:
    async with running(Entrance(ok).application(), kind) as server:
        status, headers, body = await server.exchange(
            b"POST /health/live HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
        )
    assert status == 405
    assert json.loads(body)["error"]["code"] == "method_not_allowed"
    assert sorted(headers["allow"].split(", ")) == ["get", "head"]


@pytest.mark.bugs(1)
async def test_a_bug_in_a_page_is_a_500_without_its_traceback(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    entrance = Entrance(ok)
    entrance.reasons = cast("list[str]", [object()])  # cannot be encoded
    async with running(entrance.application(), kind) as server:
        status, headers, body = await server.exchange(get("/health/ready"))
    assert status == 500
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert b"Traceback" not in body
    assert "x-request-id" in headers
    assert entrance.stats.bugs_total == 1
    assert "object" in caplog.text  # the operator sees it


@asynccontextmanager
async def served(gateway: Gateway, kind: str) -> AsyncIterator[Running]:
    async with running(create_app(gateway), kind) as server:
        yield server


class Counting:
    """A plugin that counts, measures and fails."""

    def __init__(self, _config: None, context: PluginContext) -> None:
        context.metrics.counters["things_total"] += 2
        context.metrics.gauges["level.now"] = 0.5

    @hookimpl
    async def pre_auth(self, head: Head) -> None:
        raise ValueError("always")


async def test_metrics_show_what_was_counted_in_the_format_that_is_asked_for(
    kind: str, tmp_path: Path
) -> None:
    config = Config()
    opening = Gateway.open(config, base_dir=tmp_path / "a", plugins=[("counting", Counting)])
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with opening as gateway, Gateway.open(config, base_dir=tmp_path / "b") as other:
        stats = gateway.stats
        tally = stats.calls["chat.completions", "m", 200]
        tally.calls += 3
        tally.output_tokens += 12
        tally.charge_nano += 2_500_000_000
        tally.duration_us += 1_500_000
        tally.buckets[0] += 2
        tally.buckets[-1] += 1
        stats.attempts["m/a", "ok"] += 3
        stats.refusals["rate_limit_exceeded"] += 1
        stats.in_flight = 4
        stats.waiting = 2
        for _ in range(3):
            stats.waited("served", 0.5)
        gateway.mover.damage["torn"] += 1
        async with served(gateway, kind) as server:
            assert (await server.exchange(get("/v1/models")))[0] == 500
            status, headers, body = await server.exchange(get("/metrics"))
            again = (await server.exchange(get("/metrics")))[2]
            stats.in_flight = 0
            _, openmetrics, _ = await server.exchange(
                get("/metrics", "accept: application/openmetrics-text\r\n")
            )
        async with served(other, kind) as server:
            assert b'model="m"' not in (await server.exchange(get("/metrics")))[2]
    lines = body.decode().splitlines()
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert openmetrics["content-type"].startswith("application/openmetrics-text")
    assert [line for line in METRICS if line not in lines] == []
    times = ("llmgw_plugin_seconds_total{", "llmgw_plugin_slowest_seconds{")
    assert [float(line.split()[1]) > 0 for line in lines if line.startswith(times)] == [True] * 2
    assert b'llmgw_tokens_total{direction="output",model="m"} 12.0' in again


METRICS = (
    'llmgw_requests_total{endpoint="chat.completions",model="m",status="200"} 3.0',
    'llmgw_tokens_total{direction="output",model="m"} 12.0',
    'llmgw_charge_total{model="m"} 2.5',
    'llmgw_attempts_total{deployment="m/a",outcome="ok"} 3.0',
    'llmgw_refusals_total{code="rate_limit_exceeded"} 1.0',
    "llmgw_calls_in_flight 4.0",
    "llmgw_calls_waiting 2.0",
    'llmgw_waits_total{outcome="served"} 3.0',
    "llmgw_waited_seconds_total 1.5",
    "llmgw_bugs_total 0.0",
    'llmgw_request_duration_seconds_bucket{endpoint="chat.completions",le="0.005"} 2.0',
    'llmgw_request_duration_seconds_bucket{endpoint="chat.completions",le="+Inf"} 3.0',
    'llmgw_request_duration_seconds_count{endpoint="chat.completions"} 3.0',
    'llmgw_request_duration_seconds_sum{endpoint="chat.completions"} 1.5',
    "llmgw_journal_healthy 1.0",
    "llmgw_ledger_moved_total 0.0",
    'llmgw_journal_damages_total{kind="torn"} 1.0',
    'llmgw_plugin_calls_total{hook="pre_auth",plugin="counting"} 1.0',
    'llmgw_plugin_failures_total{hook="pre_auth",plugin="counting"} 1.0',
    'llmgw_plugin_timeouts_total{hook="pre_auth",plugin="counting"} 0.0',
    'llmgw_plugin_blockings_total{hook="pre_auth",plugin="counting"} 0.0',
    'llmgw_plugin_tasks{plugin="counting"} 0.0',
    "llmgw_plugin_counting_things_total 2.0",
    "llmgw_plugin_counting_level_now 0.5",
)


async def test_a_connection_that_stays_open_is_served_by_what_is_loaded_now(kind: str) -> None:
    async def old(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"old")

    async def new(head: Head, body: Body, sink: Sink) -> None:
        await reply(sink, b"new")

    entrance = Entrance(old)
    async with running(entrance.application(), kind) as server:
        get = b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"
        reader, writer = await server.send(get)
        assert (await read_reply(reader))[2] == b"old"
        entrance.reload(new)
        writer.write(get)
        assert (await read_reply(reader))[2] == b"new"


async def test_a_wish_for_a_websocket_is_not_followed(kind: str) -> None:
    async with running(Entrance(ok).application(), kind) as server:
        reader, _ = await server.send(
            get(
                "/v1/realtime",
                "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            )
        )
        first = await reader.readline()
    assert first.split()[1] == b"200", "the plain request that it is besides"


class Lifespan:
    """The server's side of ASGI's lifespan, in memory."""

    def __init__(self, application: Application) -> None:
        self.received: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.application = application
        self._task = asyncio.ensure_future(
            application({"type": "lifespan"}, self.received.get, self.sent.put)
        )

    async def step(self, event: str) -> MutableMapping[str, Any]:
        self.received.put_nowait({"type": event})
        return await self.sent.get()

    async def ended(self) -> None:
        await self._task


async def request(application: Application, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request"}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": []}
    await application(scope | {"query_string": b""}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_a_factorys_gateway_lives_as_long_as_the_servers_lifespan() -> None:
    states: list[str] = []

    @asynccontextmanager
    async def opening() -> AsyncIterator[Gateway]:
        states.append("open")
        yield cast("Gateway", Entrance(ok))
        states.append("closed")

    application = Application(opening())
    status, headers, _ = await request(application, "/v1/models")
    assert status == 503
    assert headers[b"x-request-id"]
    lifespan = Lifespan(application)
    assert (await lifespan.step("lifespan.startup"))["type"] == "lifespan.startup.complete"
    assert (await request(application, "/v1/models"))[0] == 200
    assert states == ["open"]
    assert (await lifespan.step("lifespan.shutdown"))["type"] == "lifespan.shutdown.complete"
    await lifespan.ended()
    assert states == ["open", "closed"]


async def test_a_gateway_that_cannot_open_fails_the_start_with_a_sentence() -> None:
    opening = Gateway.open(Config(plugins=(PluginConfig(name="no-such"),)))
    lifespan = Lifespan(Application(opening))
    event = await lifespan.step("lifespan.startup")
    assert event["type"] == "lifespan.startup.failed"
    assert event["message"].startswith("plugins[0]: the plugin `no-such` is enabled but not")
    await lifespan.ended()


async def test_an_open_gateway_stays_its_owners() -> None:
    lifespan = Lifespan(Entrance(ok).application())
    await lifespan.step("lifespan.startup")
    await lifespan.step("lifespan.shutdown")
    await lifespan.ended()
    assert (await request(lifespan.application, "/v1/models"))[0] == 200
