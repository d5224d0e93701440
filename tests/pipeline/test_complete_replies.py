"""Complete replies: the upstream's own bytes, or the truth about why there are none."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import RequestLimits
from llmgw_core.config.schema_health import BreakerConfig
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, USUAL_CHARGE, at, served_by
from llmgw_core.testing.model_server import JSON, completion
from llmgw_core.testing.upstream import Peer, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted


def assert_discreet(reply: MemorySink, port: int) -> None:
    """Nothing of the upstream is in an error that the gateway wrote."""
    text = reply.body.decode()
    for secret in ("pw-of-the-upstream", str(port), "127.0.0.1", "upstream-name", "m/a"):
        assert secret not in text


async def outcomes(here: Installation) -> list[tuple[str, str]]:
    """(deployment, outcome) of the attempts of the only call on the books."""
    [record] = await here.records()
    return [(attempt.deployment, attempt.outcome) for attempt in record.attempts]


async def test_the_client_gets_the_upstreams_bytes(installed: Install, server: ModelServer) -> None:
    server.reply = b'{ "choices":[{"x":1}],\n"usage" :{"prompt_tokens":9,"completion_tokens":2} }'
    server.embeddings = b'{"data":[ ],"usage":{"prompt_tokens":4,"total_tokens":4}}\n'
    here = await installed({"m": [at(server)], "e": served_by(at(server), kind="embedding")})
    reply = await here.client.chat("m")
    assert (reply.status, reply.body) == (200, server.reply)
    reply = await here.client.embed("e")
    assert (reply.status, reply.body) == (200, server.embeddings)
    assert reply.headers["content-type"] == "application/json"
    chat, embedding = await here.records()
    assert (chat.usage.input_tokens, chat.usage.output_tokens) == (9, 2)
    assert chat.charge == 9 * INPUT_PRICE + 2 * OUTPUT_PRICE
    assert (embedding.usage.input_tokens, embedding.charge) == (4, 4 * INPUT_PRICE)


async def test_headers_of_the_upstream_stay_behind(installed: Install, server: ModelServer) -> None:
    server.headers = (
        (b"set-cookie", b"a=b"),
        (b"openai-organization", b"org-1"),
        (b"x-ratelimit-remaining-requests", b"1"),
        (b"x-request-id", b"theirs"),
        (b"server", b"secret"),
    )
    here = await installed({"m": [at(server)]})
    for stream in (False, True):
        reply = await here.client.chat("m", stream=stream)
        allowed = {"content-type", "x-request-id", "cache-control", "x-accel-buffering"}
        assert set(reply.headers) <= allowed
        assert reply.headers["x-request-id"] != "theirs"


async def test_a_failure_alone_becomes_a_truthful_error(installed: Install, failing: Any) -> None:
    here = await installed({"m": [at(failing.port, timeouts=failing.timeouts)]})
    reply = await here.client.chat("m")
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (failing.status, failing.code)
    assert_discreet(reply, failing.port)
    if failing.name == "429":
        assert reply.headers["retry-after"] == "7"
    [record] = await here.records()
    assert (record.status, record.http_status) == ("failed", failing.status)
    assert record.error_code == failing.code
    assert {attempt.outcome for attempt in record.attempts} == {failing.outcome}
    assert (record.charge, record.usage.total_tokens, record.served_model) == (0, 0, "")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_with_a_sibling_is_not_seen(
    installed: Install, failing: Any, server: ModelServer, stream: bool
) -> None:
    bad = at(failing.port, "bad", timeouts=failing.timeouts, weight=100)
    here = await installed({"m": [bad, at(server, "good")]})
    reply = await here.client.chat("m", stream=stream)
    assert reply.status == 200
    assert await outcomes(here) == [("m/bad", failing.outcome), ("m/good", "ok")]
    [record] = await here.records()
    assert (record.status, record.deployment, record.charge) == (
        "completed",
        "m/good",
        USUAL_CHARGE,
    )


async def test_a_failure_with_a_fallback_model_is_served_by_it(
    installed: Install, failing: Any, server: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(at(failing.port, timeouts=failing.timeouts), fallbacks=("other",)),
            "other": [at(server, model="their-name")],
        }
    )
    reply = await here.client.chat("m")
    assert reply.status == 200
    assert server.bodies[0]["model"] == "their-name"
    [record] = await here.records()
    assert (record.model, record.served_model, record.deployment) == ("m", "other", "other/a")
    assert [attempt.outcome for attempt in record.attempts] == [failing.outcome, "ok"]


async def test_the_last_failure_speaks_when_all_fail_unless_it_is_about_credentials(
    installed: Install, failing: Any, server: ModelServer
) -> None:
    server.status, server.reply = 503, b"{}"
    here = await installed(
        {"m": [at(server, "first", weight=9), at(failing.port, timeouts=failing.timeouts)]}
    )
    reply = await here.client.chat("m")
    told = (failing.status, failing.code)
    if failing.outcome == "credentials":
        told = (503, "upstream_overloaded")
    assert (reply.status, reply.json()["error"]["code"]) == told


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 451])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_the_clients_fault_is_passed_on_in_its_words_and_not_tried_again(
    installed: Install, server: ModelServer, sibling: ModelServer, status: int, stream: bool
) -> None:
    server.status = status
    server.reply = b'{"error" : {"message":"too long","code":"context_length_exceeded"}}'
    server.headers = ((b"set-cookie", b"a=b"),)
    here = await installed({"m": [at(server, weight=9), at(sibling, "b")]})
    reply = await here.client.chat("m", stream=stream)
    assert reply.status == status
    assert reply.json()["error"] == {
        "message": "too long",
        "type": "invalid_request_error",
        "param": None,
        "code": "context_length_exceeded",
        "request_id": reply.headers["x-request-id"],
    }
    assert reply.headers["x-should-retry"] == "false"
    assert "set-cookie" not in reply.headers
    assert sibling.requests == []
    [record] = await here.records()
    assert (record.status, record.http_status, record.charge) == ("refused", status, 0)
    assert record.error_code == "upstream_refused"


async def test_a_connection_that_died_while_idle_costs_no_attempt(
    installed: Install, scripted: Scripted
) -> None:
    async def once_then_dead(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, msgspec.json.encode(completion()), JSON))
        if peer.number == 0:
            await peer.request()
            peer.reset()
        else:
            await peer.request()

    upstream = await scripted(once_then_dead)
    here = await installed({"m": [at(upstream)]}, requests=RequestLimits(attempts=1))
    assert (await here.client.chat("m")).status == 200
    assert (await here.client.chat("m")).status == 200
    assert (upstream.accepted, len(upstream.requests)) == (2, 3)
    records = await here.records()
    assert [len(record.attempts) for record in records] == [1, 1]
    assert [record.charge for record in records] == [USUAL_CHARGE, USUAL_CHARGE]


async def test_a_fresh_connection_that_dies_is_a_failure(
    installed: Install, scripted: Scripted
) -> None:
    async def always_dead(peer: Peer) -> None:
        if peer.number == 0:
            await peer.request()
            await peer.send(http_reply(200, msgspec.json.encode(completion()), JSON))
        await peer.request()
        peer.reset()

    upstream = await scripted(always_dead)
    here = await installed({"m": [at(upstream)]}, routing=RoutingConfig(retries=0))
    assert (await here.client.chat("m")).status == 200
    assert (await here.client.chat("m")).status == 502
    assert len(upstream.requests) == 3
    assert [len(record.attempts) for record in await here.records()] == [1, 1]


async def test_a_kept_connection_that_answers_and_then_dies_is_a_failure(
    installed: Install, scripted: Scripted
) -> None:
    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, msgspec.json.encode(completion()), JSON))
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        peer.reset()

    upstream = await scripted(half)
    here = await installed({"m": [at(upstream)]}, routing=RoutingConfig(retries=0))
    assert (await here.client.chat("m")).status == 200
    assert (await here.client.chat("m")).status == 502
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("budget", [1, 2, 3])
async def test_a_call_makes_no_more_attempts_than_its_budget(
    installed: Install, scripted: Scripted, budget: int
) -> None:
    broken = await scripted(repeating(http_reply(500, b"{}", JSON)))
    here = await installed(
        {"m": [at(broken, str(index)) for index in range(5)]},
        requests=RequestLimits(attempts=budget),
    )
    reply = await here.client.chat("m")
    assert reply.status == 502
    assert len(broken.requests) == budget
    [record] = await here.records()
    assert len({attempt.deployment for attempt in record.attempts}) == budget


async def test_no_deployment_is_tried_twice_before_each_was_tried_once(
    installed: Install, scripted: Scripted
) -> None:
    broken = await scripted(repeating(http_reply(503, b"{}", JSON)))
    routing = RoutingConfig(backoff_ms=1, breaker=BreakerConfig(enabled=False))
    here = await installed({"m": [at(broken, name) for name in ("a", "b", "c")]}, routing=routing)
    for _ in range(7):
        await here.client.chat("m")
    for record in await here.records():
        tried = [attempt.deployment for attempt in record.attempts]
        assert sorted(tried[:3]) == ["m/a", "m/b", "m/c"]
        assert len(tried) == 5


async def test_calls_are_shared_by_weight(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(at(server, "a", weight=3), at(sibling, "b"), fallbacks=("n",)),
            "n": [at(server, "a"), at(sibling, "b")],
        }
    )
    for _ in range(8):
        await here.client.chat("m")
        await here.client.chat("n")
    shares = Counter(record.deployment for record in await here.records())
    assert shares == {"m/a": 6, "m/b": 2, "n/a": 4, "n/b": 4}


async def test_a_reply_without_usage_is_estimated_never_free(
    installed: Install, server: ModelServer
) -> None:
    document = completion("word " * 100)
    del document["usage"]
    server.reply = msgspec.json.encode(document)
    here = await installed({"m": [at(server)]})
    assert (await here.client.chat("m")).body == server.reply
    [record] = await here.records()
    assert record.usage.source == "estimated"
    assert record.usage.output_tokens == 125
    assert record.usage.input_tokens > 0
    assert record.charge == (
        record.usage.input_tokens * INPUT_PRICE + record.usage.output_tokens * OUTPUT_PRICE
    )


async def test_a_reply_beyond_the_cap_is_a_failure(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.reply = msgspec.json.encode(completion("x" * 5000))
    here = await installed(
        {"m": [at(server, weight=9), at(sibling, "b")]}, requests=RequestLimits(reply_bytes=4000)
    )
    assert (await here.client.chat("m")).status == 200
    assert await outcomes(here) == [("m/a", "protocol"), ("m/b", "ok")]


async def test_a_fallback_whose_own_meter_is_full_is_passed_over(
    installed: Install, server: ModelServer, scripted: Scripted
) -> None:
    broken = await scripted(repeating(http_reply(500, b"{}", JSON)))
    here = await installed(
        {
            "m": served_by(at(broken), fallbacks=("n",)),
            "n": served_by(at(server), limits=Limits(rpm=1)),
        }
    )
    assert (await here.client.chat("m")).status == 200
    refused = await here.client.chat("m")
    assert (refused.status, refused.json()["error"]["code"]) == (429, "upstream_rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    assert len(server.requests) == 1
    own = await here.client.chat("n")
    assert own.status == 429


async def test_the_meters_of_a_fallback_are_joined_once(
    installed: Install, server: ModelServer, scripted: Scripted
) -> None:
    broken = await scripted(repeating(http_reply(500, b"{}", JSON)))
    here = await installed(
        {
            "m": served_by(at(broken), fallbacks=("n",)),
            "n": served_by(
                at(broken, "x", weight=9), at(server, "y"), limits=Limits(rpm=5, parallel=1)
            ),
        }
    )
    assert (await here.client.chat("m")).status == 200
    direct = await here.client.chat("n")
    assert direct.headers["x-ratelimit-remaining-requests"] == "3"
    [record, _] = await here.records()
    assert [attempt.deployment for attempt in record.attempts] == ["m/a", "n/x", "n/y"]
