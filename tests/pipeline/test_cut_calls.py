"""Calls that run when something is switched off: they go on, unless somebody wants them cut."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from llmgw_core.tenancy.errors import NotFound
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, leading_to, served_by
from llmgw_core.testing.reloads import HeldStreams, begun, settled, with_models
from llmgw_core.testing.upstream import Peer, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.domain.switch import SwitchKind
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

ME = "root"


@pytest.fixture
async def held() -> AsyncIterator[HeldStreams]:
    streams = HeldStreams()
    async with streams.upstream:
        yield streams
        streams.going_on.set()


async def cut(here: Installation, kind: SwitchKind, name: str) -> None:
    await here.gateway.switches.off(kind, name, reason="secret", cut=True, actor=ME)


async def test_a_stream_that_runs_goes_on(installed: Install, held: HeldStreams) -> None:
    here = await installed({"m": [at(held.upstream)]})
    task, sink = await begun(here.client, "m")
    switches = here.gateway.switches
    await switches.off("deployment", "m/a", reason="x", actor=ME)
    await switches.off("model", "m", reason="x", actor=ME)
    await switches.off("team", here.tenant.team_id, reason="x", actor=ME)
    held.going_on.set()
    await task
    assert sink.body.endswith(b"data: [DONE]\n\n")
    [record] = await here.records()
    assert record.status == "completed"


@pytest.mark.parametrize("kind", ["deployment", "model", "team", "route"])
async def test_a_stream_that_is_cut_ends_truthfully_and_is_charged(
    installed: Install, held: HeldStreams, server: ModelServer, kind: SwitchKind
) -> None:
    here = await installed({"m": [at(held.upstream)], "n": [at(server)]})
    task, sink = await begun(here.client, "m")
    if kind == "route":
        await here.gateway.switches.route("m", "n", reason="secret", cut=True, actor=ME)
    else:
        names = {"deployment": "m/a", "model": "m", "team": here.tenant.team_id}
        await cut(here, kind, names[kind])
    await task
    assert sink.status == 200
    last = sink.events()[-1]
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["code"] == "switched_off"
    assert b"secret" not in sink.body
    assert b"[DONE]" not in sink.body
    [record] = await here.records()
    assert (record.status, record.error_code, record.http_status) == (
        "incomplete",
        "switched_off",
        200,
    )
    assert record.charge > 0
    assert [each.outcome for each in record.attempts] == ["switched_off"]


@pytest.mark.parametrize(("kind", "name"), [("deployment", "m/a"), ("model", "m")])
async def test_what_a_reload_has_removed_can_be_cut_as_long_as_calls_run_on_it(
    installed: Install, held: HeldStreams, server: ModelServer, kind: SwitchKind, name: str
) -> None:
    here = await installed({"m": [at(held.upstream)], "n": [at(server)]})
    task, sink = await begun(here.client, "m")
    await here.gateway.reload(with_models(here, n=[at(server)]))
    with pytest.raises(NotFound, match=f"There is no {kind} '{name}'"):
        await here.gateway.switches.off(kind, name, reason="secret", actor=ME)
    await cut(here, kind, name)
    await task
    assert json.loads(sink.events()[-1].removeprefix(b"data: "))["error"]["code"] == "switched_off"
    await here.gateway.switches.on(kind, name, actor=ME)
    with pytest.raises(NotFound, match="ask the process in which they run"):
        await cut(here, kind, name)


@pytest.mark.parametrize("kind", ["model", "route"])
async def test_calls_of_an_alias_are_cut_whoever_serves_them(
    installed: Install, held: HeldStreams, server: ModelServer, kind: SwitchKind
) -> None:
    here = await installed(
        {"m": [at(held.upstream)], "n": [at(server)]}, aliases={"chat": leading_to("m")}
    )
    direct, untouched = await begun(here.client, "m")
    task, sink = await begun(here.client, "chat")
    if kind == "route":
        await here.gateway.switches.route("chat", "n", reason="secret", cut=True, actor=ME)
    else:
        await cut(here, "model", "chat")
    await task
    assert json.loads(sink.events()[-1].removeprefix(b"data: "))["error"]["code"] == "switched_off"
    held.going_on.set()
    await direct
    assert untouched.body.endswith(b"data: [DONE]\n\n")


async def _hold(peer: Peer) -> None:
    await peer.request()
    await peer.hold()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_without_content_is_told_at_once(installed: Install, stream: bool) -> None:
    async with Upstream(_hold) as upstream:
        here = await installed({"m": [at(upstream)]})
        sink = MemorySink()
        task = asyncio.create_task(here.client.chat("m", sink=sink, stream=stream))
        await settled(lambda: bool(upstream.requests))
        await cut(here, "deployment", "m/a")
        await task
        error = json.loads(sink.body)["error"]
        assert (sink.status, error["code"]) == (503, "switched_off")
        assert sink.headers["x-should-retry"] == "true"
        [record] = await here.records()
        assert (record.status, record.http_status) == ("failed", 503)
        await upstream.until(lambda: upstream.open == 0)


async def test_calls_on_something_else_are_not_cut(
    installed: Install, held: HeldStreams, server: ModelServer
) -> None:
    here = await installed(
        {"m": served_by(at(held.upstream, "a"), at(server, "b")), "n": [at(server)]}
    )
    other = await here.another("other")
    task, sink = await begun(here.client, "m")
    for kind, name in (("deployment", "m/b"), ("model", "n")):
        await cut(here, kind, name)  # type: ignore[arg-type]
    await here.gateway.switches.off(
        "team", "team", organization="other", reason="x", cut=True, actor=ME
    )
    assert (await other.chat("m")).status == 403
    held.going_on.set()
    await task
    assert sink.body.endswith(b"data: [DONE]\n\n")


async def test_a_call_that_waits_for_its_turn_belongs_to_its_team(
    installed: Install, held: HeldStreams
) -> None:
    here = await installed({"m": [at(held.upstream)]})
    task, sink = await begun(here.client, "m")
    [(settlement, exchange)] = here.gateway.books.open.items()
    attempt, settlement.attempt = settlement.attempt, None
    await cut(here, "model", "m")
    assert exchange.ending is None
    settlement.attempt = attempt
    await cut(here, "team", here.tenant.team_id)
    await cut(here, "model", "m")  # it is ending already
    await task
    assert json.loads(sink.events()[-1].removeprefix(b"data: "))["error"]["code"] == "switched_off"


async def test_a_cut_by_the_command_line_reaches_the_gateway_once(
    installed: Install, held: HeldStreams
) -> None:
    """A switch is told apart by its id: what was seen does not cut calls that begin later."""
    here = await installed({"m": [at(held.upstream)], "n": [at(held.upstream)]})
    await cut(here, "deployment", "m/a")
    task, sink = await begun(here.client, "n")
    await here.gateway._foundation.control.refresh()
    await here.gateway.switches.off("model", "m", reason="x", actor=ME)
    held.going_on.set()
    await task
    assert sink.body.endswith(b"data: [DONE]\n\n")


async def test_whoever_cancels_the_task_itself_sees_that(
    installed: Install, held: HeldStreams
) -> None:
    here = await installed({"m": [at(held.upstream)]})
    task, _ = await begun(here.client, "m")
    [exchange] = here.gateway.books.open.values()
    task.cancel()
    await cut(here, "deployment", "m/a")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert exchange.settlement is not None
    assert exchange.settlement.settled
