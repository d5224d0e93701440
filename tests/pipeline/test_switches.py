"""What switches do to calls: at once, until they end, and to nobody else."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.access.principals import CachedPrincipal
from llmgw_core.domain.access import Principal
from llmgw_core.domain.call import Head
from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.audit_relay import AuditRelay
from llmgw_core.tenancy.records import AuditEntry
from llmgw_core.tenancy.switching import Switching
from llmgw_core.testing.client import Client, MemoryBody, MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.reloads import HeldStreams, begun, settled, with_models

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.reply import Reply
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.wire.request import RequestView

ME = "root"


def error_of(sink: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sink.body)["error"]
    return found


async def test_a_deployment_that_is_off_gets_nothing_until_it_is_on_again(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"m": [at(server, "a"), at(sibling, "b")]})
    await here.gateway.switches.off("deployment", "m/a", reason="it burns", actor=ME)
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    assert (len(server.requests), len(sibling.requests)) == (0, 6)
    await here.gateway.switches.on("deployment", "m/a", actor=ME)
    for _ in range(6):
        assert (await here.client.chat("m")).status == 200
    assert (len(server.requests), len(sibling.requests)) == (3, 9)


async def test_a_model_whose_deployments_are_all_off_is_not_available(
    installed: Install, server: ModelServer
) -> None:
    """Not even as the least bad: an operator has said so."""
    here = await installed({"m": [at(server, "a")]})
    await here.gateway.switches.off("deployment", "m/a", reason="secret reason", actor=ME)
    reply = await here.client.chat("m")
    assert reply.status == 503
    assert "secret reason" in here.gateway.stats.refused[-1].rule
    assert "secret" not in reply.body.decode()
    assert server.requests == []
    [record] = await here.records()
    assert (record.status, record.attempts) == ("failed", ())


async def test_a_model_that_is_off_is_refused_with_a_public_sentence(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)], "n": [at(server)]})
    await here.gateway.switches.off(
        "model", "m", reason="secret", expires_at=time.time() + 30, actor=ME
    )
    reply = await here.client.chat("m")
    error = error_of(reply)
    assert (reply.status, error["code"], error["param"]) == (503, "model_switched_off", "model")
    assert error["message"] == "The model 'm' is switched off at the moment."
    assert 28 <= int(reply.headers["retry-after"]) <= 30
    assert reply.headers["x-should-retry"] == "true"
    assert (await here.client.chat("n")).status == 200
    assert (await here.client.chat("nothing")).status == 404
    assert len(await here.records()) == 1
    await here.gateway.switches.off("model", "m", reason="x", actor=ME)
    reply = await here.client.chat("m")
    assert "retry-after" not in reply.headers
    assert reply.headers["x-should-retry"] == "false"


async def test_who_may_not_use_a_model_is_not_told_that_it_is_off(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"models": ["other"]})
    await here.gateway.switches.off("model", "m", reason="x", actor=ME)
    assert (await here.client.chat("m")).status == 404


async def test_a_model_that_is_off_is_no_fallback_either(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"m": served_by(at(1, "a"), fallbacks=("n", "o")), "n": [at(server)], "o": [at(sibling)]}
    )
    assert (await here.client.chat("m")).status == 200
    assert (len(server.requests), len(sibling.requests)) == (1, 0)
    await here.gateway.switches.off("model", "n", reason="x", actor=ME)
    assert (await here.client.chat("m")).status == 200
    assert (len(server.requests), len(sibling.requests)) == (1, 1)


async def test_a_team_that_is_off_is_refused_before_anything_is_read(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    other = await here.another("other")
    assert (await here.client.chat("m")).status == 200  # now its principal is cached
    await here.gateway.switches.off("team", here.tenant.team_id, reason="leaked", actor=ME)
    for reply in (await here.client.chat("m"), await here.client.get("/v1/models")):
        error = error_of(reply)
        assert (reply.status, error["code"]) == (403, "team_switched_off")
        assert "leaked" not in error["message"]
    assert (await here.client.post("/v1/chat/completions", b"no JSON")).status == 403
    assert (await other.chat("m")).status == 200
    await here.gateway.switches.on("team", here.tenant.team_id, actor=ME)
    assert (await here.client.chat("m")).status == 200
    assert len(await here.records()) == 3


class Dripping(MemoryBody):
    """A body of which the rest comes when somebody lets it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.asked, self.rest = asyncio.Event(), asyncio.Event()

    async def read(self, limit: int) -> bytes:
        self.asked.set()
        await self.rest.wait()
        return await super().read(limit)


async def test_a_body_that_takes_its_time_does_not_outlast_the_switch_of_its_team(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    body = Dripping(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
    sink, key = MemorySink(), here.tenant.key
    head = Head("POST", "/v1/chat/completions", ((b"authorization", f"Bearer {key}".encode()),))
    task = asyncio.create_task(here.gateway.handle(head, body, sink))
    await body.asked.wait()
    await here.gateway.switches.off("team", here.tenant.team_id, reason="leaked", actor=ME)
    body.rest.set()
    await task
    assert (sink.status, error_of(sink)["code"]) == (403, "team_switched_off")
    assert server.requests == []


async def test_a_team_of_a_principal_that_is_given_is_off_too(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    principal = Principal.of(here.tenant.organization_id, team=here.tenant.team_id)
    messages = [{"role": "user", "content": "x"}]
    await here.gateway.chat(model="m", messages=messages, principal=principal)
    await here.gateway.switches.off("team", here.tenant.team_id, reason="x", actor=ME)
    with pytest.raises(Exception, match="Calls of your team are switched off"):
        await here.gateway.chat(model="m", messages=messages, principal=principal)


class Guard:
    """Refuses in every hook that it has, and writes down what it was asked."""

    asked: list[str]

    def __init__(self, config: None, context: Any) -> None:
        self.asked = []
        Guard.latest = self

    latest: Guard

    @hookimpl
    def authorize(self, call: Call, model: str) -> str | None:
        self.asked.append("authorize")
        return None

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        self.asked.append("pre_route")
        call.state["guard"] = True

    @hookimpl
    def post_process(self, reply: Reply, call: Call) -> None:
        self.asked.append("post_process")
        assert call.state["guard"]

    @hookimpl
    def on_usage(self, record: object) -> None:
        self.asked.append("on_usage")

    @hookimpl
    def on_audit(self, entry: AuditEntry) -> None:
        if entry.kind == "switch":
            self.asked.append(entry.action)


async def test_the_hooks_of_a_plugin_that_is_off_are_not_run(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("guard", Guard)])
    guard = Guard.latest
    assert (await here.client.chat("m")).status == 200
    await settled(lambda: len(guard.asked) == 4)
    assert set(guard.asked) == {"authorize", "pre_route", "post_process", "on_usage"}
    await here.gateway.switches.off("plugin", "guard", reason="x", actor=ME)
    assert (await here.client.chat("m")).status == 200
    assert (await here.client.chat("m", stream=True)).status == 200
    await settled(lambda: len(guard.asked) == 5)
    assert guard.asked[4:] == ["switch_off"]  # said before it came into force
    rows = {row.name: row.state for row in here.gateway.host.describe()}
    assert rows["guard"] == "switched off"
    await here.gateway.switches.on("plugin", "guard", actor=ME)
    assert (await here.client.chat("m")).status == 200
    await settled(lambda: len(guard.asked) == 9)


async def test_a_plugin_that_comes_back_does_not_judge_what_it_has_not_seen_begin(
    installed: Install,
) -> None:
    held = HeldStreams()
    async with held.upstream:
        here = await installed({"m": [at(held.upstream)]}, plugins=[("guard", Guard)])
        await here.gateway.switches.off("plugin", "guard", reason="x", actor=ME)
        task, sink = await begun(here.client, "m")
        await here.gateway.switches.on("plugin", "guard", actor=ME)
        call = asyncio.create_task(here.client.chat("m", stream=True))
        held.going_on.set()
        await task
        assert sink.body.endswith(b"data: [DONE]\n\n")
        assert (await call).status == 200
        assert Guard.latest.asked.count("post_process") == 1


async def test_a_switch_ends_by_the_clock_and_the_log_says_so(
    installed: Install, server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("guard", Guard)])
    board = here.gateway._foundation.switchboard
    switches = here.gateway.switches
    ends = time.time() + 0.15
    for kind, name in (
        ("deployment", "m/a"),
        ("model", "m"),
        ("plugin", "guard"),
        ("team", here.tenant.team_id),
    ):
        await switches.off(kind, name, reason="x", expires_at=ends, actor=ME)  # type: ignore[arg-type]
    assert (await here.client.chat("m")).status == 403
    await settled(lambda: not board.switches)
    assert time.time() >= ends
    assert (await here.client.chat("m")).status == 200
    assert "pre_route" in Guard.latest.asked
    assert board.gate is None
    assert not here.gateway._foundation.memory.troubled
    assert "model m is on again: its switch has expired" in caplog.text


async def test_switches_hold_for_the_next_configuration_too(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("guard", Guard)])
    await here.gateway.switches.off("deployment", "m/a", reason="x", actor=ME)
    await here.gateway.switches.off("plugin", "guard", reason="x", actor=ME)
    await here.gateway.reload(with_models(here, m=[at(sibling, weight=2)], n=[at(server)]))
    assert (await here.client.chat("m")).status == 503
    assert (await here.client.chat("n")).status == 200
    assert set(Guard.latest.asked) == {"switch_off"}
    assert sibling.requests == []


async def test_switches_survive_a_restart_and_hold_before_the_first_call(
    tmp_path: Path, installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    config = here.gateway.config
    await here.gateway.switches.off("model", "m", reason="x", actor=ME)
    elsewhere = msgspec.structs.replace(
        config,
        accounting=msgspec.structs.replace(config.accounting, journal=str(tmp_path / "second")),
    )
    plugins = [(each.name, each.enabled.plugin) for each in here.gateway.host.plugins]
    async with Gateway.open(elsewhere, plugins=plugins) as gateway:
        assert (await Client(gateway, here.tenant.key).chat("m")).status == 503
    assert server.requests == []


async def test_what_another_process_switches_reaches_a_gateway_that_runs(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    store = Store(here.gateway.config.store.url)
    await store.open()
    switching = Switching(store, here.gateway._generation.switchable)
    await switching.off("model", "m", reason="x", actor="cli:me")
    assert (await here.client.chat("m")).status == 200  # not yet
    await here.gateway._foundation.control.refresh()
    assert (await here.client.chat("m")).status == 503
    await switching.on("model", "m", actor="cli:me")
    await store.aclose()
    await here.gateway._foundation.control.refresh()
    assert (await here.client.chat("m")).status == 200


async def test_nothing_is_put_in_the_way_of_calls_while_there_are_no_switches(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    foundation = here.gateway._foundation
    assert (foundation.switchboard.gate, foundation.memory.troubled) == (None, {})
    await here.client.chat("m")
    entry = here.gateway.principals.lookup(here.tenant.key)
    assert isinstance(entry, CachedPrincipal)
    lanes = entry.derived
    await here.gateway.switches.off("deployment", "m/a", reason="x", actor=ME)
    assert foundation.switchboard.gate is None
    await here.gateway.switches.on("deployment", "m/a", actor=ME)
    assert entry.derived is lanes


async def test_the_sentence_for_operators_says_what_until_when_and_why(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"a": [at(server)], "b": [at(server)]})
    end = 4_102_444_800.0
    off = await here.gateway.switches.off("model", "a", reason="r", expires_at=end, actor=ME)
    route = await here.gateway.switches.route("a", "b", reason="r", actor=ME)
    assert off.sentence() == "switched off until 2100-01-01 00:00:00Z: r"
    assert route.sentence() == "routed to b: r"


async def test_observers_hear_once_of_every_switch_whoever_has_set_it(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("guard", Guard)])
    guard, control = Guard.latest, here.gateway._foundation.control
    store = Store(here.gateway.config.store.url)
    await store.open()
    elsewhere = Switching(store, here.gateway._generation.switchable)
    await elsewhere.off("model", "m", reason="x", actor="cli:me")
    assert guard.asked == []
    await control.refresh()
    await control.refresh()
    await here.gateway.switches.on("model", "m", actor=ME)
    await control.refresh()
    await elsewhere.off("team", here.tenant.team_id, reason="x", actor="cli:me")
    await elsewhere.on("team", here.tenant.team_id, actor="cli:me")
    await store.aclose()
    await control.refresh()
    await settled(lambda: len(guard.asked) >= 4)
    assert guard.asked == ["switch_off", "switch_on", "switch_off", "switch_on"]


def test_an_entry_that_was_read_before_its_maker_came_to_tell_it_is_told_once() -> None:
    told: list[int] = []
    relay = AuditRelay(lambda entry: told.append(entry.id))

    def entry(id: int) -> AuditEntry:
        return AuditEntry(
            id=id, at=0.0, actor=ME, action="route", kind="switch", object_id="x", details={}
        )

    relay.apply((3, ()))
    relay.changed(entry(3))  # from before the start
    relay.apply((4, (entry(4),)))
    relay.changed(entry(4))
    relay.changed(entry(5))
    relay.apply((6, (entry(5), entry(6))))
    assert told == [4, 5, 6]
