"""Cases about TLS: whom the transport trusts and as whom it presents itself."""
# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.testing.transport_cases.base import (
    PATIENT,
    TlsFiles,
    TransportCases,
    failure,
    fetch,
    get,
    origin_of,
    post,
)
from llmgw_core.testing.transport_cases.flow import LARGE
from llmgw_core.testing.upstream import Upstream, http_reply, repeating

if TYPE_CHECKING:
    from llmgw_core.backends.transport.port import Transport


class EncryptedCases(TransportCases):
    """Needs the fixture `tls`."""

    async def test_a_server_of_the_named_ca_is_trusted(
        self, transport: Transport, tls: TlsFiles
    ) -> None:
        async with Upstream(repeating(http_reply(200, LARGE)), ssl_context=tls.server) as upstream:
            origin = origin_of(upstream, ca_file=tls.ca)
            for _ in range(2):
                assert await fetch(transport, origin, post(LARGE)) == LARGE
            self.check_pool(transport, origin, idle=1)
            await transport.aclose()
        assert upstream.accepted == 1
        assert all(request.body == LARGE for request in upstream.requests)

    async def test_another_ca_another_host_and_no_ca_are_not_trusted(
        self, transport: Transport, tls: TlsFiles
    ) -> None:
        for context, ca in (
            (tls.server, tls.other_ca),
            (tls.other_host, tls.ca),
            (tls.server, ""),
            (tls.server, "/nonexistent/ca.pem"),
        ):
            async with Upstream(repeating(http_reply(200)), ssl_context=context) as upstream:
                origin = origin_of(upstream, ca_file=ca)
                error = await failure(transport.send(origin, get(), PATIENT))
                assert (error.kind, error.phase) == ("tls", "connect")
                self.check_pool(transport, origin, idle=0)
            assert upstream.requests == []

    async def test_a_client_certificate_is_shown_where_one_is_configured(
        self, transport: Transport, tls: TlsFiles
    ) -> None:
        async with Upstream(repeating(http_reply(200, b"x")), ssl_context=tls.mutual) as upstream:
            known = origin_of(
                upstream, ca_file=tls.ca, client_cert=tls.client_cert, client_key=tls.client_key
            )
            assert await fetch(transport, known, post()) == b"x"
            unknown = origin_of(upstream, ca_file=tls.ca)
            # With TLS 1.3 the server's refusal comes after the client's handshake.
            error = await failure(fetch(transport, unknown, post()))
            assert error.kind in {"tls", "reset"}
            self.check_pool(transport, unknown, idle=0)
            await transport.aclose()
        assert len(upstream.requests) == 1
