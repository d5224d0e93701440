"""OpenAI's usage API: what the official client makes of it, on both servers."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from llmgw_core.config.schema import ServerConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.domain.usage import Usage
from llmgw_core.reports import pages
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.usage_records import STARTED_NS, usage_record
from llmgw_server.app import create_app

from .conftest import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

    from .conftest import Running

KEY = "an-admin-key-of-24-bytes"
START = STARTED_NS // 10**9
DAY = START - START % 86_400
ODD = (
    PriceEntry(
        dt.date(2020, 1, 1),
        TokenPrices(input=Decimal("0.333333333"), output=Decimal("1.1"), call=Decimal("0.01")),
    ),
)


class Served:
    """A gateway with a server, and the official client."""

    def __init__(self, here: Installation, server: Running) -> None:
        self.here = here
        self.server = server
        self.client = openai.AsyncOpenAI(
            api_key="none",
            admin_api_key=KEY,
            base_url=f"http://127.0.0.1:{server.port}/v1",
            max_retries=0,
        )
        self.usage: Any = self.client.admin.organization.usage  # its results are a wide union

    async def book(self, *records: Any) -> None:
        await self.here.gateway.ledger.insert(records, [])

    async def ask(self, path: str, key: str = KEY) -> tuple[int, Any]:
        head = f"GET /v1/organization{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
        status, _, reply = await self.server.exchange((head + "\r\n").encode())
        return status, json.loads(reply, parse_float=Decimal)


@pytest.fixture(params=["hypercorn", "uvicorn"])
async def served(
    request: pytest.FixtureRequest, installed: Install, server: ModelServer
) -> AsyncIterator[Served]:
    here = await installed(
        {"m": served_by(at(server), prices=ODD)}, server=ServerConfig(admin_key=KEY)
    )
    async with running(create_app(here.gateway), request.param) as running_server:
        made = Served(here, running_server)
        yield made
        await made.client.close()


async def test_days_without_calls_are_there_and_empty(served: Served) -> None:
    await served.book(usage_record(0), usage_record(1, started_ns=STARTED_NS + 2 * 86_400 * 10**9))
    page = await served.usage.completions(start_time=DAY, end_time=DAY + 3 * 86_400)
    assert (page.object, page.has_more, page.next_page) == ("page", False, None)
    assert [bucket.start_time for bucket in page.data] == [DAY + n * 86_400 for n in range(3)]
    assert [len(bucket.results) for bucket in page.data] == [1, 0, 1]
    [result] = page.data[0].results
    assert result.object == "organization.usage.completions.result"
    assert (result.num_model_requests, result.input_tokens, result.output_tokens) == (1, 10, 5)
    assert (result.input_cached_tokens, result.input_uncached_tokens) == (2, 8)
    assert (result.project_id, result.user_id, result.api_key_id, result.model) == (None,) * 4


async def test_groups_filters_and_pages(served: Served) -> None:
    hours = [(DAY + number * 3_600) * 10**9 for number in range(12)]
    await served.book(
        *(
            usage_record(n, model=f"m{n % 2}", team_id=f"team-{n % 3}", started_ns=at_ns)
            for n, at_ns in enumerate(hours)
        ),
        usage_record(50, endpoint="embeddings", usage=Usage(7, 0), started_ns=DAY * 10**9),
    )
    found: dict[tuple[str | None, str | None], int] = {}
    cursor: dict[str, Any] = {}
    pages = 0
    while True:
        page = await served.usage.completions(
            start_time=DAY,
            end_time=DAY + 12 * 3_600,
            bucket_width="1h",
            limit=5,
            group_by=["model", "project_id"],
            project_ids=["team-0", "team-1"],
            **cursor,
        )
        pages += 1
        for bucket in page.data:
            for result in bucket.results:
                key = (result.model, result.project_id)
                found[key] = found.get(key, 0) + result.num_model_requests
        if not page.has_more:
            break
        cursor = {"page": page.next_page}
    assert pages == 3
    assert found == {
        ("m0", "team-0"): 2,
        ("m1", "team-0"): 2,
        ("m0", "team-1"): 2,
        ("m1", "team-1"): 2,
    }
    page = await served.usage.embeddings(start_time=DAY, end_time=DAY + 1, group_by=["api_key_id"])
    [result] = page.data[0].results
    assert (result.input_tokens, result.api_key_id) == (7, None)  # it belongs to a user


async def test_line_items_of_costs_add_up_to_what_calls_were_charged(served: Served) -> None:
    for _ in range(7):
        assert (await served.here.client.chat("m")).status == 200
    records = await served.here.records()
    charged = Decimal(sum(record.charge for record in records)).scaleb(-9)
    now = int(time.time())
    total = await served.usage.costs(start_time=now - 3_600, end_time=now + 3_600)
    values = [result.amount for bucket in total.data for result in bucket.results]
    assert sum(Decimal(str(each.value)) for each in values) == charged
    assert {each.currency for each in values} == {"usd"}
    path = f"/costs?start_time={now - 3_600}&group_by=line_item,project_id"
    status, page = await served.ask(path)
    assert status == 200
    items = [result for bucket in page["data"] for result in bucket["results"]]
    assert {item["line_item"] for item in items} == {
        "m, input_tokens",
        "m, output_tokens",
        "m, calls",
        "rounding",
    }
    assert {item["project_id"] for item in items} == {served.here.tenant.team_id}
    parts = [Decimal(item["amount"]["value"]) for item in items]
    assert sum(parts) == charged
    quantities = {item["line_item"]: item["quantity"] for item in items}
    assert quantities["m, input_tokens"] == sum(each.usage.input_tokens for each in records)
    assert quantities["m, calls"] == 7


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/usage/completions", "start_time"),
        ("/usage/completions?start_time=soon", "start_time"),
        ("/usage/completions?start_time=-1", "start_time"),
        ("/usage/completions?start_time=1e9", "start_time"),
        ("/usage/completions?start_time=99999999999999999999999", "start_time"),
        ("/usage/completions?start_time=5&start_time=6", "start_time"),
        ("/usage/completions?start_time=5&end_time=5", "end_time"),
        ("/usage/completions?start_time=5&bucket_width=1m", "bucket_width"),
        ("/usage/completions?start_time=5&limit=32", "limit"),
        ("/usage/completions?start_time=5&limit=0", "limit"),
        ("/usage/completions?start_time=5&group_by=colour", "group_by"),
        ("/usage/completions?start_time=5&page=x", "page"),
        ("/usage/completions?start_time=5&end_time=9&page=cGFnZV85OTk5OTk=", "page"),
        ("/usage/completions?start_time=5&batch=perhaps", "batch"),
        ("/usage/completions?start_time=5&colour=red", "colour"),
        ("/usage/embeddings?start_time=5&batch=true", "batch"),
        ("/costs?start_time=5&bucket_width=1h", "bucket_width"),
        ("/costs?start_time=5&side=mine", "side"),
        ("/costs?start_time=5&limit=181", "limit"),
    ],
)
async def test_a_wrong_parameter_is_named(served: Served, path: str, param: str) -> None:
    status, reply = await served.ask(path)
    assert (status, reply["error"]["param"], reply["error"]["code"]) == (
        400,
        param,
        "invalid_request",
    )


async def test_only_the_admin_key_opens_them(served: Served) -> None:
    for key in ("wrong", served.here.tenant.key):
        status, reply = await served.ask("/usage/completions?start_time=5", key)
        assert (status, list(reply)) == (401, ["error"])
    status, reply = await served.ask("/usage/images?start_time=5")
    assert (status, reply["error"]["code"]) == (404, "not_found")


async def test_the_code_of_the_how_to_does_what_it_says(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "reports.md"
    [code] = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    code = code.replace("the admin key", KEY).replace(":4000/", f":{served.server.port}/")
    await served.book(usage_record(1))
    found: dict[str, Any] = {}
    await asyncio.to_thread(exec, code + "client.close()\n", found)
    day = 1_769_904_000 + 86_400
    assert capsys.readouterr().out == f"{day} small team-1 10\n"
    [item] = found["costs"].data[1].results
    assert (item.line_item, item.amount.currency) == ("small, not itemized", "usd")


async def test_reports_by_user_are_refused_in_the_envelope(served: Served) -> None:
    for query in ("group_by=user_id", "user_ids=u"):
        status, reply = await served.ask(f"/usage/completions?start_time=5&{query}")
        assert (status, reply["error"]["type"]) == (403, "permission_error")


async def test_long_sums_are_made_apart_from_calls_and_pages_are_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.book(*(usage_record(n, model=f"m{n}") for n in range(3)))
    threads = set()
    usage = Ledger.usage

    async def watched(self: Ledger, *question: Any) -> Any:
        threads.add(threading.current_thread())
        return await usage(self, *question)

    monkeypatch.setattr(Ledger, "usage", watched)
    path = f"/usage/completions?start_time={DAY}&end_time={DAY + 1}&group_by=model"
    status, reply = await served.ask(path)
    assert (status, len(reply["data"][0]["results"])) == (200, 3)
    assert threads.isdisjoint({threading.current_thread()})
    monkeypatch.setattr(pages, "MOST_RESULTS", 2)
    status, reply = await served.ask(path)
    assert (status, reply["error"]["param"]) == (400, "limit")
