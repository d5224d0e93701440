"""Done when: with sleeping hooks, 500 concurrent calls against tokens for exactly 100 of them: 100
are admitted, the rest hear 429 with the right reset. Real sockets, every kind of token limit."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.limits import Limits
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from llmgw_core.domain.call import Call, Head
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install
    from llmgw_core.wire.request import RequestView

    from .conftest import HttpReply, Serve

CALLS, FIT, TOKENS = 500, 100, 10
BODY = msgspec.json.encode({"model": "m", "input": list(range(TOKENS))})
"""Tokens that the client has counted itself: what is reserved is what is used."""
LONGEST_PAUSE = 0.02
DAY = 86_400


class Slow:
    """A plugin that sleeps before and after the reservation."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self._random = random.Random(7)

    @hookimpl
    async def pre_auth(self, head: Head) -> None:
        await asyncio.sleep(self._random.random() * LONGEST_PAUSE)

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        await asyncio.sleep(self._random.random() * LONGEST_PAUSE)


async def embed(peer: Peer) -> None:
    while True:
        await peer.request()
        await asyncio.sleep(0.001)
        document = {
            "object": "list",
            "model": "m",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
            "usage": {"prompt_tokens": TOKENS, "total_tokens": TOKENS},
        }
        await peer.send(http_reply(200, msgspec.json.encode(document), JSON))


@pytest.mark.parametrize(
    ("limits", "shortest", "longest"),
    [
        ({"tpm": FIT * TOKENS}, 50, 61),
        ({"input_tpm": FIT * TOKENS}, 50, 61),
        ({"tpd": FIT * TOKENS, "tpm": 10**9}, DAY - 10, DAY + 1100),
    ],
)
async def test_as_many_calls_as_fit_are_admitted_and_the_rest_is_told_when_to_come_back(
    serve: Serve, installed: Install, limits: dict[str, Any], shortest: int, longest: int
) -> None:
    async with Upstream(embed) as upstream:
        installation = await installed(
            {"m": served_by(at(upstream), kind="embedding")},
            plugins=[("slow", Slow)],
            tenant={"key_limits": Limits(**limits)},
        )
        server = await serve(installation)
        connections = [await server.connect() for _ in range(CALLS)]

        def post(number: int) -> Awaitable[HttpReply]:
            return server.post("/v1/embeddings", BODY, on=connections[number])

        replies = await asyncio.gather(*map(post, range(CALLS)))
        admitted = [reply for reply in replies if reply.status == 200]
        refused = [reply for reply in replies if reply.status == 429]
        assert (len(admitted), len(refused)) == (FIT, CALLS - FIT)
        for reply in refused:
            assert shortest <= int(reply.header(b"retry-after") or 0) <= longest
            assert reply.header(b"x-ratelimit-remaining-tokens") == b"0"
        records = await installation.records()
        assert sum(record.usage.total_tokens for record in records) == FIT * TOKENS
        assert len(upstream.requests) == FIT
