"""Requests that are too long for a model, or whose content its provider refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON, ROLE, SSE
from llmgw_core.testing.upstream import chunk, chunked_head, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Scripted

TOO_LONG = (
    b'{"error": {"message": "This model\'s maximum context length is 10 tokens.", "code": 400}}'
)
REFUSED = b'{"error": {"message": "no", "code": "content_filter"}}'


def code(reply: MemorySink) -> str:
    found: str = reply.json()["error"]["code"]
    return found


async def test_a_request_that_is_too_long_is_served_by_a_model_with_a_larger_window(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.status, server.reply = 400, TOO_LONG
    here = await installed(
        {
            "m": served_by(at(server), at(server, "b"), context_fallbacks=("large",)),
            "large": [at(sibling)],
        }
    )
    for stream in (False, True):
        assert (await here.client.chat("m", stream=stream)).status == 200
    refused, served = await here.attempts()
    assert (refused.outcome, served.deployment) == ("context_window", "large/a")
    assert refused.reason == "another model: large"
    record = (await here.records())[-1]
    assert (record.model, record.served_model) == ("m", "large")
    assert here.gateway.health.ejections == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_in_a_200_can_say_that_a_request_is_too_long(
    installed: Install, scripted: Scripted, sibling: ModelServer, stream: bool
) -> None:
    document = http_reply(200, TOO_LONG, JSON)
    events = chunked_head(200, SSE) + chunk(ROLE) + chunk(b"data: " + TOO_LONG + b"\n\n")
    upstream = await scripted(repeating(events + chunk(b"") if stream else document))
    here = await installed(
        {"m": served_by(at(upstream), context_fallbacks=("large",)), "large": [at(sibling)]}
    )
    assert (await here.client.chat("m", stream=stream)).status == 200
    assert [each.deployment for each in await here.attempts()] == ["m/a", "large/a"]


async def test_a_larger_model_that_may_not_be_used_is_not(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.status, server.reply = 400, TOO_LONG
    models = {
        "m": served_by(at(server), context_fallbacks=("large", "abroad")),
        "large": [at(sibling)],
        "abroad": [at(sibling, zone="world")],
    }
    here = await installed(models, tenant={"models": ("m", "abroad"), "zones": ("onprem",)})
    reply = await here.client.chat("m")
    assert (reply.status, code(reply)) == (400, "context_length_exceeded")
    assert "maximum context length" in reply.json()["error"]["message"]
    assert sibling.requests == []


async def test_a_plugin_is_asked_about_larger_models_too(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    class Objects:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def authorize(self, call: Any, model: str) -> str | None:
            return "no" if model == "large" else None

    server.status, server.reply = 400, TOO_LONG
    models = {"m": served_by(at(server), context_fallbacks=("large",)), "large": [at(sibling)]}
    here = await installed(models, plugins=[("objects", Objects)])
    assert (await here.client.chat("m")).status == 400
    assert sibling.requests == []


async def test_refused_content_goes_to_the_configured_model_or_is_told(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    server.status, server.reply = 403, REFUSED
    here = await installed(
        {
            "m": served_by(at(server), content_policy_fallbacks=("mild",), fallbacks=("mild",)),
            "mild": [at(sibling)],
            "strict": served_by(at(server), fallbacks=("mild",)),
        }
    )
    assert (await here.client.chat("m")).status == 200
    refused = await here.client.chat("strict")
    assert (refused.status, code(refused)) == (400, "content_filter")
    assert len(sibling.requests) == 1
    assert here.gateway.stats.refused_credentials == {}
