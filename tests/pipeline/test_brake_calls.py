"""Calls and the brake for loops: counted once each, refused with the bound and its end."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema_brake import BrakeConfig
from llmgw_core.domain.brake import Brake
from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.budgeted_calls import PRICE
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.installation import at
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.wire.request import RequestView

JSON = [(b"content-type", b"application/json")]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_000_000.0)


async def chat(here: Installation, text: str = "Hello!", **fields: Any) -> MemorySink:
    messages = [{"role": "user", "content": text}]
    return await here.client.chat("m", **{"max_tokens": 3, "messages": messages, **fields})


def told(reply: MemorySink) -> tuple[int, str]:
    return reply.status, msgspec.json.decode(reply.body)["error"]["code"]


def message(reply: MemorySink) -> str:
    text: str = msgspec.json.decode(reply.body)["error"]["message"]
    return text


class Hearing:
    """A plugin that hears of what the brake does."""

    heard: list[AuditEntry]

    def __init__(self, config: None, context: PluginContext) -> None:
        type(self).heard = []

    @hookimpl
    def on_audit(self, entry: AuditEntry) -> None:
        if entry.kind == "brake":
            self.heard.append(entry)


async def heard(number: int) -> list[AuditEntry]:
    """What observers have heard, once that is so many."""
    async with asyncio.timeout(5):
        while len(Hearing.heard) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    return Hearing.heard


async def test_without_a_brake_nothing_is_kept(installed: Install, metered: ModelServer) -> None:
    here = await installed({"m": [at(metered)]})
    for _ in range(20):
        assert (await chat(here)).status == 200
    book = here.gateway.brakes
    assert (book.open, len(book.runs), book.runs.known()) == ({}, 0, [])
    [entry] = here.gateway.principals._entries.values()
    assert entry.derived.lane("m").plain


@pytest.mark.parametrize("stream", [False, True])
async def test_a_session_is_bounded_in_calls_and_the_refusal_says_when_it_ends(
    installed: Install, metered: ModelServer, clock: FakeClock, *, stream: bool
) -> None:
    here = await installed(
        {"m": [at(metered)]}, brake=BrakeConfig(session_calls=3), limiter_clock=clock
    )
    for turn in range(3):
        again = [{"role": "assistant", "content": "a"}, {"role": "user", "content": str(turn)}]
        first = {"role": "user", "content": "Hello!"}
        assert (await chat(here, stream=stream, messages=[first, *again])).status == 200
    clock.now += 60
    reply = await chat(here, stream=stream)
    assert told(reply) == (429, "run_limit_exceeded")
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["retry-after"] == "840"
    reset = dt.datetime.fromisoformat(reply.headers["x-llmgw-brake-reset"])
    left = reset.timestamp() - dt.datetime.now(dt.UTC).timestamp()
    assert 830 < left < 850
    assert "3 calls of this session" in message(reply)
    assert reset.isoformat() in message(reply)
    assert (await chat(here, "Something else")).status == 200, "another session"
    clock.now += 840
    assert (await chat(here, stream=stream)).status == 200
    assert here.gateway.brakes.open == {}
    assert len(await here.records()) == 5


async def test_a_header_names_the_session(
    installed: Install, metered: ModelServer, clock: FakeClock
) -> None:
    here = await installed(
        {"m": [at(metered)]},
        brake=BrakeConfig(session_calls=2, session_header="X-Agent-Run"),
        limiter_clock=clock,
    )
    named = [(b"x-agent-run", b"a")]
    for text in ("one", "two"):
        reply = await here.client.chat("m", headers=named, messages=[{"content": text}])
        assert reply.status == 200
    refused = await here.client.chat("m", headers=named, messages=[{"content": "three"}])
    assert told(refused) == (429, "run_limit_exceeded")
    other = await here.client.chat("m", headers=[(b"x-agent-run", b"b")])
    assert other.status == 200


async def test_a_session_may_cost_one_call_more_than_its_bound_at_most(
    installed: Install, metered: ModelServer
) -> None:
    bound = Decimal(2 * PRICE + 1) / 10**9
    here = await installed({"m": [at(metered)]}, brake=BrakeConfig(session_money=bound))
    replies = [await chat(here) for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert "0.00" not in message(replies[-1]), "what it may cost is for operators"


async def test_what_a_limit_refuses_has_not_counted(
    installed: Install, metered: ModelServer, clock: FakeClock
) -> None:
    here = await installed(
        {"m": [at(metered)]},
        brake=BrakeConfig(key_calls=2, key_repeats=2),
        tenant={"key_limits": Limits(rpm=1)},
        limiter_clock=clock,
    )
    assert (await chat(here)).status == 200
    for _ in range(3):
        assert told(await chat(here)) == (429, "rate_limit_exceeded")
    clock.now += 61
    assert (await chat(here)).status == 200
    clock.now += 61
    assert told(await chat(here)) == (429, "run_limit_exceeded")


async def test_identical_requests_in_a_row_are_a_loop_and_another_one_ends_it(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed({"m": [at(metered)]}, brake=BrakeConfig(key_repeats=3))
    assert [(await chat(here)).status for _ in range(3)] == [200] * 3
    reply = await chat(here)
    assert told(reply) == (429, "loop_detected")
    assert reply.headers["x-should-retry"] == "false"
    assert "Another request is let through" in message(reply)
    assert (await chat(here, "Go on.")).status == 200
    assert (await chat(here)).status == 200


async def test_the_tightest_of_all_levels_holds_and_shadow_only_counts(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed(
        {"m": [at(metered)]},
        brake=BrakeConfig(key_calls=100),
        tenant={
            "brake": Brake(key_calls=5),
            "team_brake": Brake(key_calls=2, shadow=("key_calls",)),
            "key_brake": Brake(key_calls=4),
        },
        plugins=[("hearing", Hearing)],
    )
    statuses = [(await chat(here)).status for _ in range(6)]
    assert statuses == [200] * 4 + [429] * 2
    assert here.gateway.brakes.refused == {("key", "calls", True): 4, ("key", "calls", False): 2}
    told = [(each.action, each.details["limit"], each.details["shadow"]) for each in await heard(2)]
    assert told == [("refused", 2, True), ("refused", 4, False)]
    assert {each.object_id for each in Hearing.heard} == {here.tenant.key_id}
    refusal = here.gateway.stats.refused[-1]
    assert refusal.rule == f"brake key:{here.tenant.key_id}:key_calls"


async def test_attempts_of_one_call_count_once(installed: Install, metered: ModelServer) -> None:
    async def failing(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(http_reply(500, b"{}", JSON))

    async with Upstream(failing) as broken:
        here = await installed(
            {"m": [at(broken, "a", priority=0), at(metered, "b", priority=1)]},
            brake=BrakeConfig(key_calls=3),
        )
        assert [(await chat(here)).status for _ in range(4)] == [200, 200, 200, 429]
        assert len(broken.requests) >= 1


class Asking:
    """A plugin that asks a model before every call."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self._context = context

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        for _ in range(3):
            body = {"model": "m", "max_tokens": 3, "messages": [{"content": "x"}]}
            await self._context.chat(call, body)


async def test_what_plugins_call_counts_as_money_and_not_as_calls(
    installed: Install, metered: ModelServer
) -> None:
    here = await installed(
        {"m": [at(metered)]},
        brake=BrakeConfig(key_calls=2, session_calls=2),
        plugins=[("asking", Asking)],
    )
    assert [(await chat(here)).status for _ in range(3)] == [200, 200, 429]
    records = await here.records()
    assert len(records) == 8
    [key] = here.gateway.brakes.runs.known()
    assert key.run.money == sum(record.charge for record in records)
    assert [run.money for run in key.sessions.values()] == [key.run.money]
    assert (key.run.calls, key.run.open, key.run.reserved) == (2, 0, 0)


async def test_velocity_is_an_event_first_and_then_a_refusal_until_the_window_has_passed(
    installed: Install, metered: ModelServer, clock: FakeClock
) -> None:
    floor = Decimal(4 * PRICE) / 10**9
    here = await installed(
        {"m": [at(metered)]},
        brake=BrakeConfig(velocity_floor=floor),
        limiter_clock=clock,
        plugins=[("hearing", Hearing)],
    )
    statuses = []
    for number in range(6):
        statuses.append((await chat(here)).status)
        if number == 1:
            assert [each.action for each in await heard(1)] == ["fast"]
    assert statuses == [200] * 4 + [429] * 2
    assert [each.action for each in await heard(2)] == ["fast", "refused"]
    reply = await chat(here)
    assert told(reply) == (429, "velocity_exceeded")
    assert "may lift this for an hour" in message(reply)
    clock.now += int(reply.headers["retry-after"]) - 1
    assert (await chat(here)).status == 429
    clock.now += 1
    assert (await chat(here)).status == 200
