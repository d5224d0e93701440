"""Limits of every kind, on every level and on pairs, as calls meet them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.errors import ConfigError, GatewayError
from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.inprocess.memory import MemoryBody, MemorySink
from llmgw_core.limits.memory import MemoryLimiter
from llmgw_core.limits.port import Exceeded
from llmgw_core.pipeline.exchange import Exchange
from llmgw_core.pipeline.explanation import Question
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.installation import at, install, leading_to, served_by
from llmgw_core.testing.model_server import ModelServer
from llmgw_core.wire.request import decode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.testing.installation import Install, Installation

BODY = b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":5}'


def caller(**pairs: Limits) -> Principal:
    """Of an organisation with limits on models."""
    level = Level("organization", "o", ("*",), model_limits=tuple(pairs.items()))
    return Principal((level,), "o")


async def call(
    here: Installation, principal: Principal, model: str = "m", **fields: Any
) -> MemorySink:
    sink = MemorySink()
    head = Head("POST", "/v1/chat/completions", ((b"content-type", b"application/json"),))
    body = BODY.replace(b'"m"', b'"%b"' % model.encode())
    await here.gateway.handle(head, MemoryBody(body), sink, principal)
    return sink


async def test_each_model_that_a_pattern_covers_is_counted_for_itself(
    installed: Install, server: ModelServer
) -> None:
    models = {name: served_by(at(server), tags=("big",)) for name in ("gpt-a", "gpt-b", "other")}
    here = await installed(models)
    principal = caller(**{"gpt-*": Limits(rpm=1), "tag:big": Limits(rpm=2)})
    statuses = [
        (await call(here, principal, name)).status
        for name in ("gpt-a", "gpt-a", "gpt-b", "gpt-b", "other", "other", "other")
    ]
    assert statuses == [200, 429, 200, 429, 200, 200, 429]
    refused = await call(here, principal, "gpt-a")
    assert b"Rate limit reached for the organization on the model gpt-a: 1 requests" in refused.body
    assert here.gateway.stats.refused[-1].rule == "organization:o:model:gpt-a:rpm"


async def test_a_fallback_meets_the_limits_of_its_own_pair(
    installed: Install, server: ModelServer
) -> None:
    server.status = 500
    async with ModelServer() as spare:
        models = {"m": served_by(at(server), fallbacks=("n",)), "n": served_by(at(spare))}
        here = await installed(models)
        principal = caller(n=Limits(output_tpm=10))
        statuses = [(await call(here, principal)).status for _ in range(4)]
        assert len(spare.requests) == statuses.count(200) == 2


async def test_an_alias_and_what_it_leads_to_are_both_limited(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": served_by(at(server))}, aliases={"house": leading_to("m", limits=Limits(rpd=2))}
    )
    principal = caller(m=Limits(input_tpd=10**6), house=Limits(rpm=9))
    assert [(await call(here, principal, "house")).status for _ in range(3)] == [200, 200, 429]
    assert (await call(here, principal, "m")).status == 200


@pytest.mark.parametrize(
    ("limits", "what", "longest"),
    [
        (Limits(rpd=2), "2 requests per day", 86_400 + 1100),
        (Limits(rpm=1, burst=120.0), "1 requests per minute", 61),
        (Limits(output_tpm=10), "10 output tokens per minute", 61),
    ],
)
async def test_who_is_refused_hears_what_the_limit_is_and_when_to_come_back(
    installed: Install, server: ModelServer, limits: Limits, what: str, longest: int
) -> None:
    clock = FakeClock(10_000.0)
    here = await installed({"m": [at(server)]}, limiter_clock=clock)
    server.reply = server.reply.replace(b'"completion_tokens":3', b'"completion_tokens":5')
    principal = Principal((Level("organization", "o", ("*",), limits=limits),), "o")
    for _ in range(2):
        assert (await call(here, principal)).status == 200
    refused = await call(here, principal)
    assert refused.status == 429
    assert f"Rate limit reached for the organization: {what}.".encode() in refused.body
    wait = int(refused.headers["retry-after"])
    assert 0 < wait <= longest
    clock.now += wait
    assert (await call(here, principal)).status == 200


async def test_headers_tell_of_whichever_limit_is_tightest(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"key_limits": Limits(rpm=3, rpd=100)})
    reply = await here.client.chat("m")
    assert reply.headers["x-ratelimit-limit-requests"] == "3"
    here = await installed(
        {"m": [at(server)]}, tenant={"key_limits": Limits(rpm=300, rpd=2, tpm=600, burst=10.0)}
    )
    reply = await here.client.chat("m", max_tokens=5)
    assert reply.headers["x-ratelimit-limit-requests"] == "2"
    assert reply.headers["x-ratelimit-remaining-requests"] == "1"
    assert reply.headers["x-ratelimit-limit-tokens"] == "600"
    assert 0 < int(reply.headers["x-ratelimit-remaining-tokens"]) <= 100


async def test_a_call_larger_than_what_a_bucket_holds_is_told_so(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"key_limits": Limits(tpm=600, burst=1.0)})
    refused = await here.client.chat("m", max_tokens=50)
    assert refused.status == 400
    assert b"more than what the key may use at once: 10, at 600 tokens per minute." in refused.body
    # Without a bound of its own the expected output is a guess.
    assert (await here.client.chat("m")).status == 200


async def test_a_limit_of_output_does_not_make_a_call_impossible_that_may_fit(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"key_limits": Limits(output_tpm=50)})
    assert (await here.client.chat("m")).status == 200
    refused = await here.client.chat("m", max_tokens=51)
    assert refused.status == 400
    assert b"needs up to 51 output tokens, more than the whole limit" in refused.body


class Hearing:
    """A plugin that writes down the gateway's events."""

    heard: list[AuditEntry] = []  # noqa: RUF012 -- emptied by the test
    complete: asyncio.Event

    def __init__(self, config: None, context: PluginContext) -> None:
        self.heard.clear()
        type(self).complete = asyncio.Event()

    @hookimpl
    async def on_audit(self, entry: AuditEntry) -> None:
        self.heard.append(entry)
        if len(self.heard) == 3:
            self.complete.set()


async def test_a_limit_in_shadow_mode_refuses_nobody_and_is_reported_once_a_minute(
    installed: Install, server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(rpm=1, tpm=20, parallel=5, shadow=("rpm", "tpm"))
    here = await installed(
        {"m": [at(server, caps=Limits(rpm=1, shadow=("rpm",)))]},
        tenant={"key_limits": limits},
        plugins=[("hearing", Hearing)],
    )
    with caplog.at_level(logging.WARNING, "llmgw.limits"):
        for _ in range(4):
            reply = await here.client.chat("m", max_tokens=5)
            assert reply.status == 200
            assert "x-ratelimit-limit-requests" not in reply.headers
    assert dict(here.gateway.stats.shadowed) == {
        ("key", "requests"): 3,
        ("key", "tokens"): 3,
        ("deployment", "requests"): 3,
    }
    key = f"key:{here.tenant.key_id}"
    assert sorted(record.getMessage() for record in caplog.records) == [
        "limit in shadow mode would refuse calls: deployment:m/a:rpm: 1 requests per minute",
        f"limit in shadow mode would refuse calls: {key}:rpm: 1 requests per minute",
        f"limit in shadow mode would refuse calls: {key}:tpm: 20 tokens per minute",
    ]
    await asyncio.wait_for(Hearing.complete.wait(), 10)
    [entry] = [each for each in Hearing.heard if each.object_id == f"{key}:rpm"]
    assert (entry.id, entry.actor, entry.action) == (0, "gateway", "shadow_exceeded")
    assert entry.details == {"scope": "key", "limit": "1 requests per minute"}


async def test_explain_tells_of_every_limit_that_applies(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": served_by(at(server), limits=Limits(rpd=9))})
    limits = Limits(rpm=60, burst=5.0, tpm=100, shadow=("tpm",))
    level = Level("organization", "o", ("*",), limits=limits, model_limits=(("m", Limits(rpd=7)),))
    principal = Principal((level,), "o")
    await call(here, principal)
    found = await here.gateway.explain(Question(model="m", principal=principal))
    told = [rule.sentence for rule in found.rules if rule.kind == "limit"]
    assert told[0] == "4 of 60 requests per minute, and 5 at once are left to the organization"
    assert told[1].endswith("are left to the organization (in shadow mode: it refuses nobody)")
    assert told[2:] == [
        "6 of 7 requests per day are left to the organization on the model m",
        "8 of 9 requests per day are left to the model",
    ]
    for _ in range(6):
        await call(here, principal)
    found = await here.gateway.explain(Question(model="m", principal=principal))
    assert found.refusal is not None
    assert found.refusal.decided == "organization:o:rpm:burst"


class Plain:
    """A limiter that knows the plain kinds only."""

    def __init__(self) -> None:
        self._own = MemoryLimiter()

    def bind(self, specs: Any) -> Any:
        return self._own.bind(specs)

    async def reserve(self, bound: Any, tokens: int) -> Any:
        return await self._own.reserve(bound, tokens)

    def state(self, bound: Any) -> Any:
        return self._own.state(bound)

    async def aclose(self) -> None:
        await self._own.aclose()


class Plugin:
    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def register_limiters(self) -> Mapping[str, Callable[[], Any]]:
        return {"plain": Plain}


async def test_a_limiter_that_cannot_count_a_limit_is_refused_with_a_sentence(
    tmp_path: Path, server: ModelServer
) -> None:
    plugins, limits = [("plain", Plugin)], Limits(input_tpm=5)
    with pytest.raises(ConfigError, match="Plain cannot count model:m:input_tpm: it lacks kinds"):
        async with install(
            tmp_path, {"m": served_by(at(server), limits=limits)}, plugins=plugins, limiter="plain"
        ):
            pass


async def test_a_limit_of_a_caller_that_cannot_be_counted_lets_nobody_through(
    tmp_path: Path, server: ModelServer
) -> None:
    async with install(
        tmp_path, {"m": [at(server)]}, plugins=[("plain", Plugin)], limiter="plain"
    ) as here:
        assert (await call(here, caller(x=Limits(rpm=5, burst=3.0)))).status == 200
        refused = await call(here, caller(m=Limits(rpm=5, burst=3.0)))
        assert refused.status == 503
        assert b"limit_unsupported" in refused.body
        assert refused.headers["x-should-retry"] == "false"
        assert here.gateway.stats.refused[-1].rule.endswith("rpm:burst: it lacks bucket.")
        plain = Principal((Level("organization", "p", ("*",), limits=Limits(rpd=1)),), "p")
        assert [(await call(here, plain)).status for _ in range(2)] == [200, 429]


async def test_what_a_lost_call_had_reserved_is_given_back(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    limits = Limits(parallel=1, output_tpm=100)
    principal = Principal((Level("organization", "o", ("*",), limits=limits),), "o")
    admission, lost = here.gateway.admission, here.gateway._foundation.lost

    async def get_lost(deadline: float) -> Exchange:
        request = decode_request(BODY, "chat.completions")
        made = Call("c", "chat.completions", Head("POST", "/", ()), 0.0, 0, request=request)
        made.asked = made.model = "m"
        made.principal, made.deadline = principal, deadline
        exchange = Exchange(made, MemorySink())
        await admission.recognize(exchange)
        admission.authorize(exchange)
        waiting = admission.reserve(exchange)
        if waiting is not None:
            await waiting
        if not deadline:
            exchange.stop_when_gone()
        return exchange

    for deadline in (0.0, 1.0):  # its task has ended; or its deadline is long over
        exchange = await asyncio.create_task(get_lost(deadline))
        with pytest.raises((Exceeded, GatewayError)):
            await get_lost(0.0)
        assert lost.sweep() == 1
        assert lost.sweep() == 0
        assert exchange.ticket.record is not None
        assert exchange.ticket.record.error_code == "interrupted"
    assert (await call(here, principal)).status == 200
