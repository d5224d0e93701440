"""A thousand calls at random, each explained just before it is made: what is explained first is
what is tried first, and who is refused was told so.

The gateway is a real one over real sockets, with every strategy, priorities, caps, zones, aliases,
routes and fallbacks; its upstreams fail as they please, and an operator plays with the switches.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from llmgw_core.config.schema_aliases import AliasConfig
from llmgw_core.config.schema_health import BreakerConfig
from llmgw_core.config.schema_routing import ModelRouting, RoutingConfig
from llmgw_core.domain.alias import Variant
from llmgw_core.domain.limits import Limits
from llmgw_core.pipeline.explanation import Explanation, Question
from llmgw_core.routing.state import RoutingMemory
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.testing.client import Client
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.faults.server import FaultServer
from llmgw_core.testing.installation import at, install, served_by
from llmgw_core.testing.reloads import changed
from llmgw_core.testing.tenants import create_tenant

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.config.schema import ModelConfig
    from llmgw_core.testing.installation import Installation

CALLS = 1000
ZONES = ("onprem", "eu", "world")
TROUBLE = ("500", "503", "429-seconds", "401", "reset", "html-200", "context-window")
SETTLED = RoutingConfig(retries=0, breaker=BreakerConfig(consecutive=3))


class Agreement(NamedTuple):
    """What was explained of one call, and its id."""

    call_id: str
    status: int
    code: str
    explained: Explanation


def model(servers: list[FaultServer], strategy: str, chance: random.Random) -> ModelConfig:
    before = list(BALANCERS)[: list(BALANCERS).index(strategy)]
    deployments = [
        at(
            server,
            f"d{number}",
            zone=ZONES[number % 3],
            weight=chance.randint(1, 4),
            priority=number // 4,
            caps=Limits(parallel=2, rpm=20, tpm=9000) if number == 1 else Limits(),
        )
        for number, server in enumerate(servers)
    ]
    return served_by(
        *deployments,
        routing=ModelRouting(balancer=strategy),
        fallbacks=tuple(f"with-{name}" for name in before[-1:]),
        context_fallbacks=tuple(f"with-{name}" for name in before[:1]),
        limits=Limits(rpm=100_000),
    )


class Play:
    """Asks and calls, and lets things happen in between."""

    def __init__(self, here: Installation, keys: list[str], clock: FakeClock, seed: int) -> None:
        self.here = here
        self.gateway = here.gateway
        self.keys = keys
        self.clock = clock
        self.chance = random.Random(seed)
        self.names = [*(f"with-{name}" for name in BALANCERS), "alias", "absent"]

    async def disturb(self) -> None:
        """Other calls come and go, and now and then somebody turns a switch."""
        chance, memory = self.chance, self.gateway._foundation.memory
        self.clock.now += chance.expovariate(5.0)
        for state in memory.states.values():
            state.in_flight = chance.randint(0, 6)
            state.tokens_in_flight = state.in_flight * chance.randint(10, 900)
            for answers in (state.first_content, state.complete):
                if chance.random() < 0.1:
                    answers.observe(chance.uniform(0.05, 2.0), self.clock())
        if chance.random() < 0.04:
            for switch in await self.gateway.switches.find_all():
                await self.gateway.switches.on(switch.kind, switch.name, actor="test")
            model = chance.choice(list(self.gateway.catalog.values()))
            switches = self.gateway.switches
            if chance.random() < 0.5 and model.deployments:
                chosen = chance.choice(model.deployments)
                await switches.off("deployment", chosen.id, reason="a game", actor="test")
            elif chance.random() < 0.5:
                await switches.off("model", model.name, reason="a game", actor="test")
            else:
                other = chance.choice([name for name in self.names[:-1] if name != model.name])
                await switches.route(model.name, other, reason="a game", actor="test")

    async def once(self) -> Agreement:
        """One question and the same call."""
        chance = self.chance
        name, key = chance.choice(self.names), chance.choice(self.keys)
        zone = chance.choice(("", "", "onprem", "eu,world"))
        prompt = f"prompt {chance.randint(0, 20)} " * 20
        body: dict[str, Any] = {
            "model": name,
            "messages": [{"role": "user", "content": prompt}],
            "user": f"user-{chance.randint(0, 30)}",
            "stream": chance.random() < 0.5,
        }
        # What only a call can tell, `explain` cannot: an affinity to a header of its own.
        headers = [(b"x-llmgw-zone", zone.encode())] if zone else []
        explained = await self.gateway.explain(Question(model=name, key=key, body=body, zone=zone))
        client = Client(self.gateway, key)
        sink = await client.post("/v1/chat/completions", body, headers=headers)
        code = ""
        if sink.status != 200:
            code = msgspec.json.decode(sink.body)["error"]["code"]
        return Agreement(sink.headers["x-request-id"], sink.status, code, explained)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    moved = FakeClock()
    monkeypatch.setattr("llmgw_core.foundation.RoutingMemory", lambda _: RoutingMemory(moved))
    times = SimpleNamespace(monotonic=moved, time_ns=time.time_ns)
    monkeypatch.setattr("llmgw_core.generation.time", times)
    return moved


async def test_what_is_explained_first_is_tried_first(tmp_path: Path, clock: FakeClock) -> None:
    chance = random.Random(4)

    def mood(_: object) -> str:
        return chance.choice(TROUBLE) if chance.random() < 0.25 else "ok"

    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(FaultServer(mood)) for _ in range(6)]
        models = {f"with-{name}": model(servers, name, chance) for name in BALANCERS}
        here = await stack.enter_async_context(install(tmp_path, models, limiter_clock=clock))
        aliases = {
            "alias": AliasConfig(
                variants=(Variant("with-cheapest", 80), Variant("with-peak_ewma", 20))
            )
        }
        await here.gateway.reload(changed(here, routing=SETTLED, aliases=aliases))
        narrow = await create_tenant(here.gateway.store, "narrow", zones=["onprem", "eu"])
        few = await create_tenant(
            here.gateway.store, "few", models=["with-c*", "alias", "with-peak*"]
        )
        keys = [here.tenant.key, narrow.key, few.key]
        play = Play(here, keys, clock, seed=6)
        told = []
        for _ in range(CALLS):
            await play.disturb()
            told.append(await play.once())
        records = {record.call_id: record for record in await here.records()}
    tried: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    troubled = noted = 0
    for agreement in told:
        explained, record = agreement.explained, records.get(agreement.call_id)
        if explained.refusal is not None:
            assert (agreement.status, agreement.code) == (
                explained.refusal.status,
                explained.refusal.code,
            )
            assert record is None
            refused[agreement.code] += 1
            continue
        assert record is not None
        attempts = [attempt.deployment for attempt in record.attempts]
        assert attempts[:1] == [each.deployment for each in explained.candidates[:1]], explained
        if attempts:
            tried[attempts[0].partition("/")[0]] += 1
        troubled += bool(explained.dropped)
        noted += any(each.note for each in explained.candidates[:1])
    # It was a game worth playing.
    assert set(tried) == set(models)
    assert min(tried.values()) > 40, tried
    assert {"model_not_found", "model_switched_off"} <= set(refused), refused
    assert troubled > 300
    assert noted > 0
