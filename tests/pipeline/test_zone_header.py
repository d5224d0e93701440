"""`x-llmgw-zone` narrows one call, and nothing widens it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import at, leading_to, served_by
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.client import Client, MemorySink
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.wire.request import RequestView


def zone(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-llmgw-zone", value.encode()) for value in values]


@pytest.fixture
async def servers() -> AsyncIterator[dict[str, ModelServer]]:
    """One upstream in each zone."""
    async with ModelServer() as onprem, ModelServer() as eu, ModelServer() as world:
        yield {"onprem": onprem, "eu": eu, "world": world}


@pytest.fixture
async def here(installed: Install, servers: dict[str, ModelServer]) -> Installation:
    everywhere = [at(server, name, zone=name) for name, server in servers.items()]
    world = [at(servers["world"], zone="world")]
    onprem = [at(servers["onprem"])]
    return await installed(
        {"m": everywhere, "far": served_by(*world, fallbacks=("near",)), "near": onprem},
        aliases={"a": leading_to("near", "far")},
    )


async def call(client: Client, model: str, *values: str, calls: int = 9) -> None:
    """A row of calls that succeed."""
    for _ in range(calls):
        assert (await client.chat(model, headers=zone(*values))).status == 200


def heard(servers: dict[str, ModelServer]) -> set[str]:
    return {name for name, server in servers.items() if server.requests}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eu", {"eu"}),
        ("eu,onprem", {"eu", "onprem"}),
        (" onprem , eu ", {"eu", "onprem"}),
        ("eu,eu", {"eu"}),
        ("onprem,eu,world", {"onprem", "eu", "world"}),
    ],
)
async def test_a_call_goes_only_where_its_header_says(
    here: Installation, servers: dict[str, ModelServer], value: str, expected: set[str]
) -> None:
    await call(here.client, "m", value)
    assert heard(servers) == expected


async def test_one_call_is_narrowed_and_the_next_one_is_not(
    here: Installation, servers: dict[str, ModelServer]
) -> None:
    await call(here.client, "m", "eu", calls=3)
    assert heard(servers) == {"eu"}
    await call(here.client, "m", calls=3)
    assert heard(servers) == {"onprem", "eu", "world"}


async def test_the_header_never_widens_what_the_caller_may_use(
    here: Installation, servers: dict[str, ModelServer]
) -> None:
    narrow = await here.another("narrow", zones=["onprem", "eu"], key_zones=["eu", "world"])
    await call(narrow, "m", "eu,world,onprem")
    assert heard(servers) == {"eu"}
    refused = await narrow.chat("m", headers=zone("world"))
    assert (refused.status, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert heard(servers) == {"eu"}


async def test_fallbacks_and_variants_are_narrowed_as_well(
    here: Installation, servers: dict[str, ModelServer]
) -> None:
    await call(here.client, "far", "onprem", calls=2)
    for number in range(20):
        reply = await here.client.chat("a", headers=zone("onprem"), user=f"u{number}")
        assert reply.status == 200
    assert heard(servers) == {"onprem"}
    assert (await here.client.chat("near", headers=zone("world"))).status == 403


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["mars"], "There is no zone 'mars' here."),
        (["eu,mars"], "There is no zone 'mars' here."),
        (["EU"], "There is no zone 'EU' here."),
        ([""], "The header x-llmgw-zone names zones, separated by commas."),
        (["eu,"], "The header x-llmgw-zone names zones, separated by commas."),
        (["eu", "world"], "The header x-llmgw-zone is given twice; give one, with commas."),
        (["\xff" * 60], f"There is no zone '{'Ã¿' * 25}' here."),
    ],
)
async def test_a_header_that_makes_no_sense_is_refused(
    here: Installation, servers: dict[str, ModelServer], values: list[str], message: str
) -> None:
    for _ in range(2):
        reply = await here.client.chat("m", headers=zone(*values))
        error = reply.json()["error"]
        assert (reply.status, error["code"]) == (400, "invalid_zone")
        assert (error["param"], error["message"]) == ("x-llmgw-zone", message)
    assert heard(servers) == set()


async def test_the_list_of_models_is_that_of_the_zone(here: Installation) -> None:
    async def listed(*values: str) -> list[str]:
        reply = await here.client.post("/v1/models", b"", method="GET", headers=zone(*values))
        return [model["id"] for model in reply.json()["data"]]

    assert await listed() == ["m", "far", "near", "a"]
    assert await listed("eu") == ["m"]
    assert await listed("onprem") == ["m", "far", "near", "a"]


async def test_zones_that_clients_combine_cost_no_memory(here: Installation) -> None:
    """Spaces make new texts of the same zones."""
    for number in range(300):
        assert (await here.client.chat("m", headers=zone(f"{' ' * number}eu"))).status == 200
    admission = here.gateway._generation.admission
    assert len(admission._zones._read) == 256


class Asks:
    """A plugin that asks another model about every request."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        question = {"model": "m", "messages": [{"role": "user", "content": "ok?"}]}
        await self.context.chat(call, question)


async def test_what_a_plugin_asks_on_the_way_stays_in_the_zone(
    installed: Install, servers: dict[str, ModelServer]
) -> None:
    everywhere = [at(server, name, zone=name) for name, server in servers.items()]
    here = await installed(
        {"m": everywhere, "near": [at(servers["onprem"])]}, plugins=[("asks", Asks)]
    )
    for _ in range(6):
        reply: MemorySink = await here.client.chat("near", headers=zone("onprem"))
        assert reply.status == 200
    assert heard(servers) == {"onprem"}
    assert len(servers["onprem"].requests) == 12
