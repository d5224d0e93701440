"""Who calls is said by the key or the principal that is given, and by nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.testing.installation import at

from .conftest import MESSAGES

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


async def test_headers_that_are_handed_on_do_not_say_who_calls(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    headers = {"Authorization": "Bearer nobody", "Content-Type": "text/html", "X-Own": "1"}
    reply = await here.gateway.chat(
        model="m", messages=MESSAGES, key=here.tenant.key, headers=headers
    )
    assert reply.text == "Hello there"


@pytest.mark.parametrize("who", ["acme", {"organization_id": "acme"}, b"key"])
async def test_who_calls_is_of_the_right_type_before_anything_is_called(
    installed: Install, server: ModelServer, who: Any
) -> None:
    here = await installed({"m": [at(server)]})
    with pytest.raises(TypeError, match="A principal is made by"):
        await here.gateway.chat(model="m", messages=MESSAGES, principal=who)
    with pytest.raises(TypeError, match="A principal is made by"):
        here.gateway.async_openai(principal=who)
    if not isinstance(who, str):
        with pytest.raises(TypeError, match="A key is a text"):
            here.gateway.caller(key=who)
    assert here.gateway.stats.bugs_total == 0
