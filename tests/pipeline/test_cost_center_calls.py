"""The row of a call has the cost centre that holds when it starts, or that its header chooses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.domain.access import Principal
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.wire.request import RequestView

BY = "test"


def choosing(*codes: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-llmgw-cost-center", code.encode()) for code in codes]


class Asking:
    """A plugin that makes a call of its own in the course of every call."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> RequestView:
        await self.context.chat(
            call, {"model": "m", "messages": [{"role": "user", "content": "?"}]}
        )
        return request


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def here(installed: Install, server: ModelServer) -> Installation:
    return await installed({"m": [at(server)]})


async def centers(here: Installation, *codes: str) -> dict[str, str]:
    return {code: (await here.gateway.costing.create(code, actor=BY)).id for code in codes}


async def booked(here: Installation) -> list[str]:
    return [record.cost_center for record in await here.records()]


async def test_without_any_the_call_is_on_none(here: Installation) -> None:
    assert (await here.client.chat("m")).status == 200
    assert await booked(here) == [""]


async def test_a_change_in_this_process_holds_for_the_very_next_call(here: Installation) -> None:
    ids = await centers(here, "A", "B")
    costing, tenant = here.gateway.costing, here.tenant
    assert (await here.client.chat("m")).status == 200
    await costing.assign("A", "organization", tenant.organization_id, actor=BY)
    assert (await here.client.chat("m")).status == 200
    await costing.assign("B", "team", tenant.team_id, actor=BY)
    assert (await here.client.chat("m")).status == 200
    await costing.unassign("team", tenant.team_id, actor=BY)
    assert (await here.client.chat("m")).status == 200
    assert await booked(here) == ["", ids["A"], ids["B"], ids["A"]]


async def test_a_change_dated_in_advance_holds_from_its_instant_in_a_cached_caller(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await installed({"m": [at(server)]})
    ids = await centers(here, "A", "B")
    tenant, instant = here.tenant, (int(time.time()) + 3600) * 10**9
    await here.gateway.costing.assign("A", "team", tenant.team_id, actor=BY)
    await here.gateway.costing.assign("B", "team", tenant.team_id, since_ns=instant, actor=BY)
    entrance = here.gateway._generation.entrance
    for started_ns in (instant - 1, instant):
        monkeypatch.setattr(entrance, "_wall_clock_ns", lambda at=started_ns: at)
        assert (await here.client.chat("m")).status == 200
    assert await booked(here) == [ids["A"], ids["B"]]


async def test_the_header_chooses_among_what_the_key_may_choose(here: Installation) -> None:
    ids = await centers(here, "OWN", "P-1", "P-2")
    costing, tenant = here.gateway.costing, here.tenant
    await costing.assign("OWN", "team", tenant.team_id, actor=BY)
    await costing.allow("key", tenant.key_id, ["P-1"], actor=BY)
    for code in ("P-1", "OWN"):
        assert (await here.client.chat("m", headers=choosing(code))).status == 200
    refused = await here.client.chat("m", headers=choosing("P-2"))
    unknown = await here.client.chat("m", headers=choosing("P-3"))
    for sink, code in ((refused, "P-2"), (unknown, "P-3")):
        error = msgspec.json.decode(sink.body)["error"]
        assert (sink.status, error["code"]) == (403, "cost_center_not_allowed")
        assert error["message"] == f"This key may not choose the cost centre '{code}' now."
    assert await booked(here) == [ids["P-1"], ids["OWN"]]


@pytest.mark.parametrize("codes", [("",), ("P-1", "P-1")])
async def test_a_header_that_names_none_or_two_is_a_mistake(
    here: Installation, codes: tuple[str, ...]
) -> None:
    sink = await here.client.chat("m", headers=choosing(*codes))
    assert (sink.status, msgspec.json.decode(sink.body)["error"]["code"]) == (
        400,
        "invalid_cost_center",
    )


async def test_a_header_is_no_wish_that_is_ignored(here: Installation, server: ModelServer) -> None:
    """Nobody has assigned anything: the call would be on the books in another place."""
    assert (await here.client.chat("m", headers=choosing("P-1"))).status == 403
    assert not server.requests


async def test_who_pays_for_a_call_pays_for_those_that_plugins_make_in_its_course(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("asking", Asking)])
    ids = await centers(here, "P-1")
    await here.gateway.costing.allow("team", here.tenant.team_id, ["P-1"], actor=BY)
    assert (await here.client.chat("m", headers=choosing("P-1"))).status == 200
    assert await booked(here) == [ids["P-1"], ids["P-1"]]


async def test_an_application_may_name_the_cost_centre_of_its_principals(
    here: Installation,
) -> None:
    principal = Principal.of("app", cost_center="cc-of-the-app")
    await here.gateway.chat(
        model="m", messages=[{"role": "user", "content": "hi"}], principal=principal
    )
    assert await booked(here) == ["cc-of-the-app"]
    with pytest.raises(ValueError, match="cost centre"):
        Principal.of("app", cost_center="")
