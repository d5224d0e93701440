"""What becomes of calls when attempts fail: waits, budgets, deadlines, and other models."""

from __future__ import annotations

import logging
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.config.schema_routing import (
    DeploymentRouting,
    ModelRouting,
    RoutingConfig,
    StreamTimeoutsConfig,
    TimeoutsConfig,
    TreatmentConfig,
)
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON, ROLE, SSE, WORD, completion
from llmgw_core.testing.upstream import Peer, chunk, chunked_head, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Script, Scripted

GOOD = http_reply(200, msgspec.json.encode(completion()), JSON)
BROKEN = http_reply(500, b'{"error": {"message": "no"}}', JSON)


def limited(*headers: tuple[str, str]) -> bytes:
    fields = tuple((name.encode(), value.encode()) for name, value in headers)
    return http_reply(429, b'{"error": {"message": "slow down"}}', JSON + fields)


def code(reply: MemorySink) -> str:
    found: str = reply.json()["error"]["code"]
    return found


def bearer(*accepted: bytes, status: int = 401) -> tuple[Script, list[bytes]]:
    """Answers requests with one of the credentials, refuses others; and those it has seen."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            shown = dict(request.headers)[b"authorization"].removeprefix(b"Bearer ")
            seen.append(shown)
            refusal = http_reply(status, b'{"error": {"message": "no"}}', JSON)
            await peer.send(GOOD if shown in accepted else refusal)

    return script, seen


# Tried again


async def test_a_deployment_that_failed_fast_is_asked_again_when_it_is_alone(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(repeating(BROKEN, GOOD))
    here = await installed({"m": [at(upstream)]})
    assert (await here.client.chat("m")).status == 200
    failed, worked = await here.attempts()
    assert (failed.outcome, worked.outcome) == ("server", "ok")
    assert failed.reason.startswith("again after 0.")
    assert worked.reason == ""
    assert here.gateway.stats.retries == {("m", "same"): 1}


async def test_the_wait_that_an_upstream_asks_for_is_kept_if_it_is_short(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(repeating(limited(("retry-after-ms", "30")), GOOD))
    here = await installed({"m": [at(upstream)]})
    began = time.monotonic()
    assert (await here.client.chat("m")).status == 200
    assert time.monotonic() - began >= 0.03


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("retry-after", "7")], 7),
        ([("retry-after-ms", "6500")], 7),
        ([("x-ratelimit-reset-requests", "6m0s")], 360),
        ([("retry-after", "DATE")], 60),
        ([], 2),
    ],
)
async def test_the_client_is_told_how_long_the_upstream_wants_to_be_left_alone(
    installed: Install, scripted: Scripted, headers: list[tuple[str, str]], told: int
) -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    fields = [(name, value.replace("DATE", date)) for name, value in headers]
    upstream = await scripted(repeating(limited(*fields)))
    routing = RoutingConfig(retries=0)
    here = await installed({"m": [at(upstream)]}, routing=routing)
    reply = await here.client.chat("m")
    assert (reply.status, code(reply)) == (429, "upstream_rate_limited")
    if headers:
        assert told - 2 <= int(reply.headers["retry-after"]) <= told
    assert len(upstream.requests) == 1


async def test_whoever_is_rate_limited_is_left_alone_and_is_not_ill(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    upstream = await scripted(repeating(limited(("retry-after", "60"))))
    here = await installed({"m": [at(upstream, "a", weight=9), at(server, "b")]})
    for _ in range(10):
        assert (await here.client.chat("m")).status == 200
    assert len(upstream.requests) == 1
    assert here.gateway.health.ejections == {}


async def test_an_overloaded_upstream_is_left_alone_for_as_long_as_it_asks(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    busy = http_reply(503, b"{}", (*JSON, (b"retry-after", b"60")))
    upstream = await scripted(repeating(busy))
    here = await installed({"m": [at(upstream, "a", weight=9), at(server, "b")]})
    for _ in range(10):
        assert (await here.client.chat("m")).status == 200
    assert len(upstream.requests) == 1


async def test_retries_have_a_budget(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    upstream = await scripted(repeating(BROKEN))
    routing = RoutingConfig(retry_share=0.0, retry_minimum=0.2)  # two in its window
    here = await installed({"m": [at(upstream, "a", weight=99), at(server, "b")]}, routing=routing)
    statuses = [(await here.client.chat("m")).status for _ in range(4)]
    assert statuses == [200, 200, 502, 502]
    [last] = await here.attempts()
    assert last.reason == "too many calls of the model are tried again already"


async def test_the_rules_of_one_deployment_are_its_own(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    upstream = await scripted(repeating(BROKEN))
    rules = DeploymentRouting(failures=TreatmentConfig(server="stop"))
    here = await installed({"m": [at(upstream, "a", weight=9, routing=rules), at(server, "b")]})
    assert (await here.client.chat("m")).status == 502
    assert server.requests == []


# Credentials


async def test_a_refused_credential_is_not_used_again_and_somebody_is_told(
    installed: Install, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    script, seen = bearer(b"good")
    upstream = await scripted(script)
    here = await installed({"m": [at(upstream, credentials=("bad", "good"))]})
    with caplog.at_level(logging.ERROR, "llmgw.attempts"):
        replies = [(await here.client.chat("m")).status for _ in range(5)]
    assert replies == [200] * 5
    assert seen == [b"bad", *[b"good"] * 5]
    assert [each.outcome for each in (await here.records())[0].attempts] == ["credentials", "ok"]
    assert here.gateway.stats.refused_credentials == {"m/a": 1}
    [alert] = [each.getMessage() for each in caplog.records if "alert" in each.getMessage()]
    assert "deployment=m/a credential=1 of 2 status=401" in alert
    assert "bad" not in alert


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_when_all_credentials_are_refused_the_callers_own_key_is_not_to_blame(
    installed: Install, scripted: Scripted, status: int
) -> None:
    script, seen = bearer(status=status)
    upstream = await scripted(script)
    here = await installed({"m": [at(upstream, credential="one", credentials=("two",))]})
    reply = await here.client.chat("m")
    assert (reply.status, code(reply)) == (502, "upstream_credentials_exhausted")
    assert seen == [b"one", b"two"]
    assert reply.headers["x-should-retry"] == "false"


async def test_a_credential_that_was_refused_once_and_is_served_again_rests_no_more(
    installed: Install, scripted: Scripted
) -> None:
    """Somebody has paid the bill, say. The only deployment there is is tried all the same."""
    upstream = await scripted(repeating(http_reply(402, b"{}", JSON), GOOD))
    here = await installed({"m": [at(upstream, credential="one")]})
    assert code(await here.client.chat("m")) == "upstream_credentials_exhausted"
    memory = here.gateway._foundation.memory
    [deployment] = here.gateway.catalog["m"].deployments
    assert memory.obstacle(deployment, memory.clock()) is not None
    assert (await here.client.chat("m")).status == 200
    assert memory.obstacle(deployment, memory.clock()) is None


async def test_an_account_without_money_is_a_refused_credential(
    installed: Install, scripted: Scripted
) -> None:
    empty = http_reply(429, b'{"error": {"code": "insufficient_quota"}}', JSON)
    here = await installed({"m": [at(await scripted(repeating(empty)), credential="one")]})
    assert code(await here.client.chat("m")) == "upstream_credentials_exhausted"


async def test_credentials_take_turns_and_a_rate_limit_is_of_one_of_them(
    installed: Install, scripted: Scripted
) -> None:
    seen = []

    async def script(peer: Peer) -> None:
        while True:
            shown = dict((await peer.request()).headers)[b"authorization"]
            seen.append(shown.removeprefix(b"Bearer "))
            await peer.send(limited(("retry-after", "60")) if shown.endswith(b"1") else GOOD)

    here = await installed({"m": [at(await scripted(script), credentials=("k1", "k2", "k3"))]})
    assert [(await here.client.chat("m")).status for _ in range(4)] == [200] * 4
    assert seen == [b"k1", b"k2", b"k3", b"k2", b"k3"]
    states = here.gateway.health.states(here.gateway.catalog.values())
    assert [state.obstacles for _, state in states] == [{}]


# Deadlines


async def stalled(peer: Peer) -> None:
    await peer.request()
    await peer.stall()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_can_say_how_long_a_call_may_take(
    installed: Install, scripted: Scripted, server: ModelServer, stream: bool
) -> None:
    here = await installed({"m": [at(await scripted(stalled), weight=9), at(server, "b")]})
    headers = [(b"x-llmgw-timeout-ms", b"60")]
    began = time.monotonic()
    reply = await here.client.chat("m", stream=stream, headers=headers)
    assert 0.05 <= time.monotonic() - began < 5.0
    assert (reply.status, code(reply)) == (504, "deadline_exceeded")
    [attempt] = await here.attempts()
    assert (attempt.outcome, attempt.reason) == ("timeout", "the deadline has passed")
    assert server.requests == []


async def test_a_caller_can_lower_the_deadline_of_a_model_and_not_raise_it(
    installed: Install, scripted: Scripted
) -> None:
    model = served_by(at(await scripted(stalled)), routing=ModelRouting(deadline_seconds=0.05))
    here = await installed({"m": model})
    began = time.monotonic()
    reply = await here.client.chat("m", headers=[(b"x-llmgw-timeout-ms", b"999999999")])
    assert code(reply) == "deadline_exceeded"
    assert time.monotonic() - began < 5.0


async def test_a_call_in_time_is_not_touched_by_its_deadline(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": served_by(at(server), routing=ModelRouting(deadline_seconds=60.0))}
    )
    for stream in (False, True):
        headers = [(b"x-llmgw-timeout-ms", b"30000")]
        assert (await here.client.chat("m", stream=stream, headers=headers)).status == 200
    assert [record.status for record in await here.records()] == ["completed"] * 2


@pytest.mark.parametrize(
    "values",
    [[b"0"], [b"-1"], [b"1.5"], [b"soon"], [b""], [b"9999999999"], [b"\xb2"], [b"1", b"2"]],
)
async def test_a_timeout_that_is_none_is_refused(
    installed: Install, server: ModelServer, values: list[bytes]
) -> None:
    here = await installed({"m": [at(server)]})
    headers = [(b"x-llmgw-timeout-ms", value) for value in values]
    reply = await here.client.chat("m", headers=headers)
    assert (reply.status, code(reply)) == (400, "invalid_timeout")
    assert reply.json()["error"]["param"] == "x-llmgw-timeout-ms"
    assert server.requests == []


def begins(*pieces: bytes) -> Script:
    """A stream that falls silent."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(chunked_head(200, SSE) + b"".join(map(chunk, pieces)))
        await peer.stall()

    return script


def stream_timeouts(**seconds: float) -> TimeoutsConfig:
    return TimeoutsConfig(stream=StreamTimeoutsConfig(**seconds))


@pytest.mark.parametrize("transport", ["httptools", "aiohttp"])
async def test_a_stream_whose_first_token_takes_too_long_goes_elsewhere(
    installed: Install, scripted: Scripted, server: ModelServer, transport: str
) -> None:
    slow = at(
        await scripted(begins(ROLE)),
        weight=9,
        transport=transport,
        timeouts=stream_timeouts(first_token=0.05),
    )
    here = await installed({"m": [slow, at(server, "b")]})
    reply = await here.client.chat("m", stream=True)
    assert reply.status == 200
    assert reply.body.endswith(b"data: [DONE]\n\n")
    slow_one, good = await here.attempts()
    assert (slow_one.outcome, good.outcome) == ("timeout", "ok")


async def test_a_stream_that_takes_too_long_as_a_whole_ends_truthfully(
    installed: Install, scripted: Scripted
) -> None:
    upstream = await scripted(begins(ROLE, WORD))
    here = await installed({"m": [at(upstream, timeouts=stream_timeouts(total=0.1))]})
    reply = await here.client.chat("m", stream=True)
    assert reply.status == 200
    assert reply.body.startswith(ROLE + WORD)
    assert b"stream_cut" in reply.body
    assert b"[DONE]" not in reply.body
    [record] = await here.records()
    assert (record.status, record.error_code) == ("incomplete", "stream_cut")
    assert [attempt.outcome for attempt in record.attempts] == ["timeout"]
