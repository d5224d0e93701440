"""What a call was charged, in its reply: for those who switch it on."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from llmgw_core.config.schema_reports import ReportsConfig
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.testing.installation import at
from llmgw_server.app import create_app

from .conftest import running

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

HEADER = "x-llmgw-cost"


async def ask(here: Installation, kind: str, **changes: Any) -> tuple[int, dict[str, str]]:
    """The status and the head of a reply."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **changes}
    text = json.dumps(body).encode()
    async with running(create_app(here.gateway), kind) as server:
        status, headers, _ = await server.exchange(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (here.tenant.key.encode(), len(text), text)
        )
    return status, headers


async def test_a_complete_reply_says_exactly_what_it_was_charged(
    installed: Install, server: ModelServer, kind: str
) -> None:
    here = await installed({"m": [at(server)]}, reports=ReportsConfig(cost_header=True))
    status, headers = await ask(here, kind)
    record = await here.only_record()
    assert record.charge > 0
    assert status == 200
    assert Decimal(headers[HEADER]) == Decimal(record.charge).scaleb(-9)
    assert "e" not in headers[HEADER].lower()


async def test_a_stream_has_none_however_it_came_about(
    installed: Install, server: ModelServer, kind: str
) -> None:
    here = await installed({"m": [at(server)]}, reports=ReportsConfig(cost_header=True))
    assert HEADER not in (await ask(here, kind, stream=True))[1]
    server.status = 201  # a complete reply, of which a stream is made
    status, headers = await ask(here, kind, stream=True)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert HEADER not in headers
    assert all(record.charge for record in await here.records())


async def test_errors_of_admitted_calls_say_it_and_those_of_others_do_not(
    installed: Install, server: ModelServer, kind: str
) -> None:
    here = await installed(
        {"m": [at(server)]},
        reports=ReportsConfig(cost_header=True),
        routing=RoutingConfig(reply_headers=True),
    )
    server.status = 500
    for stream in (False, True):
        status, headers = await ask(here, kind, stream=stream)
        assert status >= 500
        assert headers[HEADER] == "0.000000000"
        assert "x-llmgw-attempts" in headers
    status, headers = await ask(here, kind, model="nothing")
    assert status == 404
    assert HEADER not in headers


async def test_it_is_off_unless_it_is_asked_for(
    installed: Install, server: ModelServer, kind: str
) -> None:
    here = await installed({"m": [at(server)]})
    assert HEADER not in (await ask(here, kind))[1]
