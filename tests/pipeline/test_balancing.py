"""Balancers, priorities and caps in a running gateway: what reaches which upstream."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import AccountingConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.config.schema_routing import ModelRouting, RoutingConfig
from llmgw_core.domain.limits import Limits
from llmgw_core.domain.ramp import Ramp
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.routing.balance import Member
from llmgw_core.routing.strategies.round_robin import RoundRobin
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.installation import INPUT_PRICE, OUTPUT_PRICE, PRICES, at, served_by
from llmgw_core.testing.reloads import HeldStreams, begun, with_models
from llmgw_core.testing.rosters import a_call
from llmgw_core.wire.request import decode_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer


async def answered(here: Installation, model: str = "m", calls: int = 1, **fields: Any) -> None:
    for _ in range(calls):
        assert (await here.client.chat(model, **fields)).status == 200


def counts(servers: Sequence[ModelServer]) -> list[int]:
    return [len(server.requests) for server in servers]


async def test_a_model_may_be_balanced_in_another_way_than_the_others(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    deployments = (at(server, "a"), at(sibling, "b"))
    mine = ModelRouting(balancer="session_affinity", balancer_options={"header": "x-chat"})
    here = await installed({"m": deployments, "n": served_by(*deployments, routing=mine)})
    await answered(here, "m", 6)
    assert counts((server, sibling)) == [3, 3]
    for _ in range(6):
        await here.client.chat("n", headers=((b"x-chat", b"one"),))
    assert sorted(counts((server, sibling))) == [3, 9]


async def test_options_alone_are_for_the_balancer_of_all_models(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {
            "m": served_by(
                at(server, "a"),
                at(sibling, "b"),
                routing=ModelRouting(balancer_options={"field": "thread"}),
            )
        },
        routing=RoutingConfig(balancer="session_affinity", balancer_options={"field": "user"}),
    )
    for number in range(6):
        await answered(here, thread="t", user=f"u{number}")
    assert sorted(counts((server, sibling))) == [0, 6]


async def test_the_cheapest_is_the_one_that_is_cheapest_for_this_call(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    """One is cheap to ask, the other one cheap to let talk."""
    day = PRICES[0].valid_from
    ask = (PriceEntry(day, TokenPrices(input=Decimal(1), output=Decimal(100))),)
    talk = (PriceEntry(day, TokenPrices(input=Decimal(50), output=Decimal(1))),)
    here = await installed(
        {"m": [at(server, "ask", prices=ask), at(sibling, "talk", prices=talk)]},
        routing=RoutingConfig(balancer="cheapest"),
    )
    long = [{"role": "user", "content": "word " * 2000}]
    await answered(here, calls=3, messages=long, max_tokens=1)
    assert counts((server, sibling)) == [3, 0]
    await answered(here, calls=3, max_tokens=5000)
    assert counts((server, sibling)) == [3, 3]


async def test_a_call_costs_what_its_deployment_would_bill_for_it(
    installed: Install, server: ModelServer
) -> None:
    later = (PriceEntry(dt.date(2999, 1, 1), TokenPrices(input=Decimal(9))),)
    here = await installed(
        {
            "m": [at(server, "now"), at(server, "later", prices=later)],
            "e": served_by(at(server, "e"), kind="embedding"),
        },
        accounting=AccountingConfig(unpriced="zero"),
    )
    members = here.gateway._generation.roster.members
    body = b'{"model":"m","messages":[{"role":"user","content":"Hello"}],"max_tokens":%d}'

    def price(id: str, bound: int) -> int:
        call = a_call(body % bound)
        call.started_ns = time.time_ns()
        return members[id].price(call)

    assert price("m/now", 200) - price("m/now", 1) == 199 * OUTPUT_PRICE
    assert price("m/now", 10**6) < 2 * price("m/now", 200)  # nobody is expected to write that much
    assert price("m/later", 1) == 0
    call = a_call()
    call.started_ns = time.time_ns()
    call.request = decode_request(b'{"model":"e","input":[[1,2,3],[4,5]]}', "embeddings")
    assert members["e/e"].price(call) == 5 * INPUT_PRICE


async def test_reserves_are_used_when_those_before_them_fail(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"m": [at(server, "reserve", priority=1), at(sibling, "first")]})
    await answered(here, calls=4)
    assert counts((server, sibling)) == [0, 4]
    sibling.status = 500
    await answered(here)
    assert counts((server, sibling)) == [1, 5]


async def test_a_deployment_at_its_cap_is_no_candidate_and_never_says_429(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    clock = FakeClock()
    here = await installed(
        {"m": [at(server, "a", caps=Limits(rpm=3)), at(sibling, "b", priority=1)]},
        limiter_clock=clock,
    )
    await answered(here, calls=5)
    assert counts((server, sibling)) == [3, 2]
    clock.now += 61.0
    await answered(here)
    assert counts((server, sibling)) == [4, 2]


async def test_a_race_of_calls_exceeds_no_cap(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    clock = FakeClock()
    capped = at(server, "a", caps=Limits(rpm=7, parallel=3))
    here = await installed(
        {"m": [capped, at(sibling, "b", priority=1, caps=Limits(rpm=5))]}, limiter_clock=clock
    )
    replies = await asyncio.gather(*(here.client.chat("m") for _ in range(40)))
    statuses = [reply.status for reply in replies]
    first, second = counts((server, sibling))
    assert first <= 7
    assert second <= 5
    assert statuses.count(200) == first + second
    assert statuses.count(429) == 40 - first - second
    assert min(first, second) >= 3


async def test_calls_in_flight_are_capped_until_they_end(
    installed: Install, sibling: ModelServer
) -> None:
    held = HeldStreams()
    async with held.upstream:
        here = await installed(
            {"m": [at(held.upstream, "a", caps=Limits(parallel=2)), at(sibling, "b", priority=1)]}
        )
        running = [await begun(here.client, "m") for _ in range(2)]
        await answered(here)
        assert (len(held.upstream.requests), len(sibling.requests)) == (2, 1)
        held.going_on.set()
        await asyncio.gather(*(task for task, _ in running))
        sink = await here.client.chat("m", stream=True)
        assert (sink.status, len(held.upstream.requests)) == (200, 3)


async def test_when_all_are_at_their_caps_the_caller_hears_when_to_come_again(
    installed: Install, server: ModelServer
) -> None:
    clock = FakeClock()
    here = await installed({"m": [at(server, caps=Limits(rpm=1))]}, limiter_clock=clock)
    await answered(here)
    clock.now += 20.0
    reply = await here.client.chat("m")
    error = msgspec.json.decode(reply.body)["error"]
    assert (reply.status, error["code"]) == (429, "upstream_rate_limited")
    assert here.gateway.stats.refused[-1].rule.startswith("m/a: ")
    assert 40 <= int(reply.headers["retry-after"]) <= 42
    assert len(server.requests) == 1


async def test_tokens_are_capped_by_what_calls_have_really_used(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    """Each call reserves more than the 10 tokens that the upstream then reports."""
    clock = FakeClock()
    here = await installed(
        {"m": [at(server, "a", caps=Limits(tpm=200)), at(sibling, "b", priority=1)]},
        limiter_clock=clock,
    )
    await answered(here, calls=9, max_tokens=80)
    assert counts((server, sibling)) == [9, 0]
    await answered(here, max_tokens=150)
    assert counts((server, sibling)) == [9, 1]


async def test_what_never_reached_a_deployment_is_given_back_to_its_caps(
    installed: Install, server: ModelServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused_port: int = listener.getsockname()[1]
    clock = FakeClock()
    here = await installed(
        {"m": [at(refused_port, "a", caps=Limits(rpm=1, parallel=1)), at(server, "b", priority=1)]},
        limiter_clock=clock,
    )
    await answered(here, calls=3)
    [member] = [
        each
        for each in here.gateway._generation.roster.members.values()
        if each.deployment.id == "m/a"
    ]
    assert member.caps is not None
    assert member.caps.full(10) is None
    assert len(server.requests) == 3


async def test_counts_against_caps_survive_a_reload(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    clock = FakeClock()
    capped = [at(server, "a", caps=Limits(rpm=2)), at(sibling, "b", priority=1)]
    here = await installed({"m": capped}, limiter_clock=clock)
    await answered(here)
    await here.gateway.reload(with_models(here, m=capped, n=[at(server)]))
    await answered(here, calls=3)
    assert counts((server, sibling)) == [2, 2]


async def test_a_deployment_that_comes_with_a_reload_ramps_up(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    routing = RoutingConfig(ramp=Ramp(seconds=3600.0, start=0.2))
    here = await installed({"m": [at(server, "a")]}, routing=routing)
    await answered(here, calls=5)
    await here.gateway.reload(with_models(here, m=[at(server, "a"), at(sibling, "b")]))
    await answered(here, calls=50)
    assert len(sibling.requests) == pytest.approx(5, abs=1)


async def test_latency_is_learned_from_what_calls_see(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    [state] = here.gateway._foundation.memory.states.values()
    await answered(here)
    assert (state.latency, state.first_content.seconds) == (0.0, None)
    assert 0.0 < (state.complete.seconds or 0.0) < 5.0
    assert (await here.client.chat("m", stream=True)).status == 200
    assert 0.0 < state.latency < 5.0
    assert (state.in_flight, state.tokens_in_flight) == (0, 0)


@pytest.mark.parametrize("fails_in", ["pick", "took", "nobody"])
async def test_a_plugins_balancer_that_fails_fails_no_call(
    installed: Install,
    server: ModelServer,
    sibling: ModelServer,
    fails_in: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(RoundRobin):
        def pick(self, call: Call, members: Sequence[Member]) -> Member:
            if fails_in == "pick":
                raise RuntimeError("no idea")
            return super().pick(call, members)

        def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
            if fails_in == "took":
                raise RuntimeError("no idea")
            super().took(call, member, members)

    class Stranger(Broken):
        def pick(self, call: Call, members: Sequence[Member]) -> Member:
            return Member(members[0].deployment, members[0].state)

    class Brings:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def register_balancers(self) -> dict[str, Any]:
            return {"broken": Stranger if fails_in == "nobody" else Broken}

    here = await installed(
        {"m": [at(server, "a"), at(sibling, "b")]},
        plugins=[("brings", Brings)],
        routing=RoutingConfig(balancer="broken"),
    )
    await answered(here, calls=6)
    assert counts((server, sibling)) == [3, 3]
    hook = "took" if fails_in == "took" else "pick"
    assert f"Plugin balancer `broken` failed in {hook}" in caplog.text
    assert here.gateway.stats.bugs_total == 0
