"""`GET /admin/v1/ledger`: for billing systems that read along."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from llmgw_core.config.schema import ServerConfig
from llmgw_core.testing.installation import at
from llmgw_core.testing.usage_records import call_ids, usage_record
from llmgw_server.app import create_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

    Ask = Callable[[str], Any]

KEY = "an admin key of some length"
PAGE = "/admin/v1/ledger"


@pytest.fixture
async def ask(installed: Install, server: ModelServer) -> Ask:
    here = await installed({"m": [at(server)]}, server=ServerConfig(admin_key=KEY))
    # Two commits; more than are in memory at once.
    await here.gateway.ledger.insert([usage_record(n) for n in range(1500)], [])
    await here.gateway.ledger.insert([usage_record(n) for n in range(1500, 2500)], [])
    client = TestClient(create_app(here.gateway))
    assert client.get(PAGE).status_code == 401
    return lambda query: client.get(f"{PAGE}?{query}", headers={"authorization": f"Bearer {KEY}"})


async def test_it_is_read_in_pieces_without_a_gap_and_nothing_twice(ask: Ask) -> None:
    found: list[str] = []
    after = 0
    sizes = []
    while True:
        reply = ask(f"after={after}&limit=1100")
        assert reply.headers["content-type"] == "application/x-ndjson"
        rows = [json.loads(line) for line in reply.text.splitlines()]
        sizes.append(len(rows))
        if not rows:
            break
        found += [row["call_id"] for row in rows]
        after = rows[-1]["cursor"]
    assert sizes == [1100, 1100, 300, 0]
    assert found == call_ids(range(2500))
    assert len(ask("").text.splitlines()) == 1000


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=10001", "after=-1", "after=x", "after=1&after=2", "limit=1e3"]
)
async def test_a_wrong_parameter_is_named(ask: Ask, query: str) -> None:
    reply = ask(query)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == query[:5]
