from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.access import Level, Principal
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
