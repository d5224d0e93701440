"""Nothing of a call reaches an upstream that the caller may not use, least of all when everything
that he may use is dead: the fallback in the configuration is no permission."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import JSON, ROLE, ModelServer
from llmgw_core.testing.tenants import create_tenant
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

from .conftest import CHAT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.upstream import Script

    from .conftest import HttpReply, Serve, Server

QUICK = Timeouts(first_byte=0.1, idle=0.1)
PATIENT = Timeouts(first_byte=30.0, idle=30.0)
"""For upstreams that do answer, however busy the machine is."""

NARROWINGS: dict[str, dict[str, Any]] = {
    "the organisation grants one model": {"models": ["local"]},
    "the team is granted one model": {"team_models": ["local"]},
    "the user is granted one model": {"user_models": ["loc*"]},
    "the key is granted one model": {"key_models": ["local"]},
    "the key is granted models by a tag": {"key_models": ["tag:internal"]},
    "the organisation is held to a zone": {"zones": ["onprem"]},
    "the key is held to a zone": {"key_zones": ["onprem", "eu"]},
    "team and key have one model in common": {
        "team_models": ["local", "eu-*"],
        "key_models": ["local", "public"],
    },
}
"""Why a caller may not use the public model; all may use the local one."""


async def resets(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def stalls(peer: Peer) -> None:
    await peer.request()
    await peer.stall()


async def cuts(peer: Peer) -> None:
    """The stream, or the document, breaks off before it has said anything."""
    request = await peer.request()
    if b'"stream":true' in request.body:
        head = chunked_head(200, [(b"content-type", b"text/event-stream")])
        await peer.send(head + chunk(ROLE))
    else:
        await peer.send(chunked_head(200, JSON) + chunk(b'{"choices":['))
    peer.cut()


def answers(status: int) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(http_reply(status, b'{"error":{"message":"no"}}', JSON))

    return script


FAULTS: dict[str, tuple[Script | None, int, str]] = {
    "refuses connections": (None, 503, "upstream_unavailable"),
    "resets": (resets, 502, "upstream_error"),
    "answers 500": (answers(500), 502, "upstream_error"),
    "answers 503": (answers(503), 503, "upstream_overloaded"),
    "answers 401": (answers(401), 502, "upstream_credentials_exhausted"),
    "stalls": (stalls, 504, "upstream_timeout"),
    "answers 429": (answers(429), 429, "upstream_rate_limited"),
    "is cut before content": (cuts, 502, "upstream_error"),
}
"""What the local deployments do, and what a caller is told who may use nothing else."""


class Local:
    """Two on-premise upstreams: dead ports, or servers that follow one script."""

    def __init__(self, script: Script | None) -> None:
        self._script = script
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> tuple[int, int]:
        return await self._port(), await self._port()

    async def _port(self) -> int:
        if self._script is not None:
            return (await self._stack.enter_async_context(Upstream(self._script))).port
        # Bound and not listening: refuses for sure, and nobody else can get the port.
        reserved = self._stack.enter_context(socket.socket())
        reserved.bind(("127.0.0.1", 0))
        port: int = reserved.getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@pytest.fixture
async def public() -> AsyncIterator[ModelServer]:
    """The public provider: works, and records every connection."""
    async with ModelServer() as upstream:
        yield upstream


async def ask(server: Server, key: str, model: str, *, stream: bool = False) -> HttpReply:
    flag = b"true" if stream else b"false"
    body = b'{"model":"%b","messages":[{"role":"user","content":"secret"}],"stream":%b}'
    return await server.post(CHAT, body % (model.encode(), flag), key=key)


async def open_gateway(
    installed: Install,
    ports: tuple[int, int],
    public: ModelServer,
    timeouts: Timeouts = PATIENT,
) -> Any:
    dead = [at(port, name, timeouts=timeouts) for port, name in zip(ports, "ab", strict=True)]
    return await installed(
        {
            "local": served_by(*dead, fallbacks=("public",), tags=("internal",)),
            "mixed": [*dead, at(public, "c", zone="world")],
            "public": [at(public, "p", zone="world")],
        }
    )


@pytest.mark.parametrize("fault", FAULTS)
async def test_of_a_call_that_may_not_leave_the_public_upstream_sees_not_a_byte(
    serve: Serve, installed: Install, public: ModelServer, fault: str
) -> None:
    script, status, code = FAULTS[fault]
    timeouts = QUICK if fault == "stalls" else PATIENT
    async with Local(script) as ports:
        installation: Installation = await open_gateway(installed, ports, public, timeouts)
        server = await serve(installation)
        store = installation.gateway.store
        keys = [
            (await create_tenant(store, name, **narrowing)).key
            for name, narrowing in NARROWINGS.items()
        ]
        calls = [ask(server, key, "local", stream=flag) for key in keys for flag in (False, True)]
        for reply in await asyncio.gather(*calls):
            assert (reply.status, reply.json()["error"]["code"]) == (status, code)
            assert b"127.0.0.1" not in reply.body
        assert (public.accepted, public.requests) == (0, [])
        records = await installation.records()
        assert len(records) == len(calls)
        for record in records:
            # Whoever failed fast may have been asked once more.
            assert {each.deployment for each in record.attempts} == {"local/a", "local/b"}
            assert (record.status, record.served_model) == ("failed", "")
        await check_that_others_fall_back(server, installation, public)


async def check_that_others_fall_back(
    server: Server, installation: Installation, public: ModelServer
) -> None:
    """With grant and zone the public model answers, so that its silence above means something."""
    wide = await create_tenant(
        installation.gateway.store, "wide", models=["local", "public"], zones=["onprem", "world"]
    )
    before = len(await installation.records())
    calls = [
        ask(server, key, "local", stream=stream)
        for key in (installation.tenant.key, wide.key)
        for stream in (False, True)
    ]
    for reply in await asyncio.gather(*calls):
        assert reply.status == 200
    assert len(public.requests) == len(calls)
    for record in (await installation.records())[before:]:
        assert (record.served_model, record.zone) == ("public", "world")
        # Those that have failed too often by now are not asked any more.
        *before_it, last = (attempt.deployment for attempt in record.attempts)
        assert (set(before_it) <= {"local/a", "local/b"}, last) == (True, "public/p")


async def test_a_deployment_outside_the_callers_zones_is_never_tried(
    serve: Serve, installed: Install, public: ModelServer
) -> None:
    async with Local(None) as ports:
        installation: Installation = await open_gateway(installed, ports, public)
        server = await serve(installation)
        store = installation.gateway.store
        for name in ("the organisation is held to a zone", "the key is held to a zone"):
            key = (await create_tenant(store, name, **NARROWINGS[name])).key
            for _ in range(6):
                assert (await ask(server, key, "mixed")).status == 503
            assert (await ask(server, key, "public")).status == 403
        nowhere = await create_tenant(store, "nowhere", zones=["onprem"], key_zones=["world"])
        for model in ("local", "mixed", "public"):
            assert (await ask(server, nowhere.key, model)).status == 403
        assert public.accepted == 0
        assert (await ask(server, installation.tenant.key, "mixed")).status == 200


async def test_a_model_that_is_not_granted_does_not_exist_for_the_caller(
    serve: Serve, installed: Install, public: ModelServer
) -> None:
    async with Local(None) as ports:
        installation: Installation = await open_gateway(installed, ports, public)
        server = await serve(installation)
        for name, narrowing in NARROWINGS.items():
            if "zone" not in name:
                tenant = await create_tenant(installation.gateway.store, name, **narrowing)
                reply = await ask(server, tenant.key, "public")
                unknown = await ask(server, tenant.key, "nothing")
                assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")
                assert unknown.json()["error"]["message"] == reply.json()["error"][
                    "message"
                ].replace("public", "nothing")
        assert public.accepted == 0
