"""Statements and cost centres over the admin API of a gateway that runs."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from sqlalchemy import text

from llmgw_core.config.schema import ServerConfig
from llmgw_core.testing.installation import at
from llmgw_server.app import create_app

from .conftest import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

    from .conftest import Running

KEY = "an-admin-key-of-24-bytes"


class Served(NamedTuple):
    here: Installation
    server: Running

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        data = b"" if body is None else msgspec.json.encode(body)
        head = (
            f"{method} /admin/v1{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        status, _, reply = await self.server.exchange(head.encode() + data)
        return status, json.loads(reply)


@pytest.fixture
async def served(installed: Install, server: ModelServer) -> AsyncIterator[Served]:
    here = await installed({"m": [at(server)]}, server=ServerConfig(admin_key=KEY))
    async with running(create_app(here.gateway), "uvicorn") as running_server:
        yield Served(here, running_server)


async def test_an_assignment_over_http_is_in_force_when_the_reply_is_there(served: Served) -> None:
    status, center = await served.ask("POST", "/cost-centers", {"code": "CC-1", "name": "One"})
    assert (status, center["code"]) == (200, "CC-1")
    assert (await served.ask("GET", "/cost-centers"))[1]["data"] == [center]
    wanted = {"code": "CC-1", "level": "team", "whose": "team", "organization": "acme"}
    status, made = await served.ask("POST", "/cost-centers/assignments", wanted)
    assert status == 200
    assert (await served.ask("GET", "/cost-centers/assignments"))[1] == made
    assert (await served.here.client.chat("m")).status == 200
    status, ended = await served.ask("POST", "/cost-centers/assignments", {**wanted, "code": ""})
    assert (status, ended) == (200, made)
    assert (await served.here.client.chat("m")).status == 200
    assert [r.cost_center for r in await served.here.records()] == [center["id"], ""]
    [entry, *_] = await served.here.gateway.tenancy.list_audit(limit=1)
    assert (entry.action, entry.actor) == ("unassign", "admin API")


async def test_a_statement_of_real_calls_is_read_page_by_page(served: Served) -> None:
    for _ in range(3):
        assert (await served.here.client.chat("m")).status == 200
    records = await served.here.records()
    gateway = served.here.gateway
    month = f"{dt.datetime.now(dt.UTC):%Y-%m}"
    made = await gateway.statements.create(month, actor="test")
    status, shown = await served.ask("GET", f"/statements/{month}")
    assert (status, shown["id"], shown["calls"], shown["state"]) == (200, made.id, 3, "open")
    assert (await served.ask("GET", "/statements?organization=acme"))[1] == {"data": []}
    assert (await served.ask("GET", "/statements"))[1] == {"data": [shown]}
    [check] = shown["checks"]
    assert check["holds"]
    assert check["ledger_cost"] == f"{sum(r.cost for r in records) / 1e9:.9f}"
    status, first = await served.ask("GET", f"/statements/{made.id}/lines?limit=2")
    assert (status, first["has_more"]) == (200, True)
    status, rest = await served.ask("GET", f"/statements/{month}/lines?after=2")
    assert (status, rest["has_more"]) == (200, False)
    lines = [*first["data"], *rest["data"]]
    assert [(line["line"], line["class"]) for line in lines] == [
        (1, "input"), (2, "output"), (3, "call"),
    ]  # fmt: skip
    assert lines[0]["quantity"] == sum(record.usage.input_tokens for record in records)
    assert lines[0]["cost_rate"] == "1.00"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/statements/2020-01", None, 404, "no statement of 2020-01"),
        ("GET", "/statements/2020-01/lines?limit=x", None, 400, "limit is a whole number"),
        ("GET", "/statements?organization=nobody", None, 404, "no organisation 'nobody'"),
        ("POST", "/cost-centers", {"code": "= 1"}, 400, "1 to 40 letters"),
        ("POST", "/cost-centers", {}, 400, "required field `code`"),
        (
            "POST",
            "/cost-centers/assignments",
            {"code": "CC-9", "level": "team", "whose": "team"},
            404,
            "no cost centre 'CC-9'",
        ),
        (
            "POST",
            "/cost-centers/assignments",
            {"code": "", "level": "team", "whose": "team", "until_ns": 1},
            400,
            "What ends has no",
        ),
    ],
)
async def test_what_cannot_be_is_refused_in_the_envelope(
    served: Served, method: str, path: str, body: object, status: int, sentence: str
) -> None:
    found, reply = await served.ask(method, path, body)
    assert (found, sentence in reply["error"]["message"]) == (status, True), reply


async def test_a_closed_statement_that_somebody_has_changed_is_not_served(served: Served) -> None:
    gateway = served.here.gateway
    await gateway.statements.create("2020-01", actor="test")
    await gateway.statements.close("2020-01", actor="test")
    async with gateway.store.begin() as connection:
        await connection.execute(text("UPDATE statements SET digest = 'x'"))
    status, reply = await served.ask("GET", "/statements/2020-01/lines")
    assert (status, reply["error"]["code"]) == (500, "statement_changed")


@pytest.mark.parametrize(
    "path", ["/statements", "/statements/2020-01", "/cost-centers", "/cost-centers/assignments"]
)
async def test_without_a_database_they_say_so(served: Served, path: str) -> None:
    await served.here.gateway.store.aclose()
    status, reply = await served.ask("GET", path)
    assert (status, reply["error"]["message"]) == (503, "The database does not answer.")
