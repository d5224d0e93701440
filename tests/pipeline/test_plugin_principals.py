from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.limits import Limits
from llmgw_core.pipeline import admission
from llmgw_core.testing.client import MemoryBody, MemorySink
from llmgw_core.testing.installation import at
from llmgw_core.testing.plugins import authenticator

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

LEVELS = (Level("organization", "org_x", models=("*",)),)


@pytest.mark.parametrize(
    ("principal", "status", "code"),
    [
        (Principal(LEVELS, "org_x", expires_at=4e9), 200, None),
        (Principal(LEVELS, "org_x", expires_at=1.0), 401, "invalid_api_key"),
        (Principal(LEVELS, ""), 500, "plugin_error"),
        (Principal(LEVELS, "org_x", user_id="\ud800"), 500, "plugin_error"),
        (Principal(LEVELS, "org_x", team_id="x" * 81), 500, "plugin_error"),
        (Principal(LEVELS, 7), 500, "plugin_error"),  # type: ignore[arg-type]
        (Principal([*LEVELS], "org_x"), 500, "plugin_error"),  # type: ignore[arg-type]
        (
            Principal((Level("organization", "org_x", models="*"),), "org_x"),  # type: ignore[arg-type]
            500,
            "plugin_error",
        ),
        (
            Principal((Level("organization", "org_x", ("*",), limits=None),), "org_x"),  # type: ignore[arg-type]
            500,
            "plugin_error",
        ),
    ],
)
async def test_a_principal_of_a_plugin_expires_and_has_ids_that_the_books_can_hold(
    installed: Install, server: ModelServer, principal: Principal, status: int, code: str | None
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("door", authenticator(principal))])
    reply = await here.client.chat("m", headers=[(b"x-test-principal", b"yes")])
    assert reply.status == status
    if code is not None:
        assert reply.json()["error"]["code"] == code
    assert len(await here.records()) == (status == 200)


async def test_a_principal_that_is_given_needs_no_key_and_has_its_own_rights(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "GIVEN_PRINCIPALS", 1)
    here = await installed({"m": [at(server)]})
    head = Head("POST", "/v1/chat/completions", [])
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
    stranger = Principal((Level("organization", "org_y", models=("other",)),), "org_y")
    known = Principal((Level("organization", "org_x", ("*",), limits=Limits(rpm=2)),), "org_x")
    statuses = []
    for principal in (known, known, stranger, known):
        sink = MemorySink()
        await here.gateway.handle(head, MemoryBody(body), sink, principal)
        statuses.append(sink.status)
    assert statuses == [200, 200, 404, 429]
    assert [record.organization_id for record in await here.records()] == ["org_x", "org_x"]
