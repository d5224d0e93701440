from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.call import Head
from llmgw_core.testing.client import Client, MemoryBody, MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.plugins import DenyModel

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer


@pytest.fixture
async def here(installed: Install, server: ModelServer) -> Installation:
    return await installed(
        {
            "org/open": served_by(at(server), created=dt.date(2026, 1, 2)),
            "far": [at(server, zone="world")],
            "far-but-covered": served_by(at(server, zone="world"), fallbacks=("org/open",)),
            "hidden": [at(server)],
        },
        tenant={"models": ["org/*", "far*"], "zones": ["onprem"]},
    )


async def test_the_list_holds_what_may_be_used_and_can_be_served(here: Installation) -> None:
    reply = await here.client.get("/v1/models")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.json() == {
        "object": "list",
        "data": [
            {
                "id": "org/open",
                "object": "model",
                "created": 1767312000,
                "owned_by": "llmgw",
                "state": "active",
            },
            {
                "id": "far-but-covered",
                "object": "model",
                "created": 0,
                "owned_by": "llmgw",
                "state": "active",
            },
        ],
    }
    assert await here.records() == []


async def test_each_caller_sees_what_is_his(here: Installation) -> None:
    narrow = await here.another("narrow", models=["*"], key_models=["hidden"])
    nothing = await here.another("nothing", models=None)
    assert [one["id"] for one in (await narrow.get("/v1/models")).json()["data"]] == ["hidden"]
    assert (await nothing.get("/v1/models")).json()["data"] == []
    assert (await Client(here.gateway, None).get("/v1/models")).status == 401


@pytest.mark.parametrize("path", ["/v1/models/org/open", "/v1/models/org%2Fopen"])
async def test_one_model_is_found_by_its_name(here: Installation, path: str) -> None:
    reply = await here.client.get(path)
    assert (reply.status, reply.json()["id"]) == (200, "org/open")


@pytest.mark.parametrize("name", ["hidden", "far", "absent", "%ff", "org"])
async def test_a_model_that_is_not_his_does_not_exist(here: Installation, name: str) -> None:
    reply = await here.client.get(f"/v1/models/{name}")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_model_that_a_plugin_denies_is_not_listed(
    installed: Install, server: ModelServer
) -> None:
    here = await installed(
        {"m": [at(server)], "secret": [at(server)]},
        plugins=[("deny", DenyModel)],
        sections=[PluginConfig("deny", config={"model": "secret"})],
    )
    assert [one["id"] for one in (await here.client.get("/v1/models")).json()["data"]] == ["m"]
    assert (await here.client.get("/v1/models/m")).status == 200
    assert (await here.client.get("/v1/models/secret")).status == 404


async def test_a_head_request_has_no_body(here: Installation) -> None:
    sink = MemorySink()
    headers = [(b"authorization", b"Bearer " + here.tenant.key.encode())]
    await here.gateway.handle(Head("HEAD", "/v1/models", headers), MemoryBody(b""), sink)
    assert (sink.status, sink.body, sink.finished) == (200, b"", True)
