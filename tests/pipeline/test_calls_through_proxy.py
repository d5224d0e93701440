"""Calls of a whole gateway through a forward proxy, and what clients see when it fails."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from llmgw_core.backends.transport.plugin_http import open_session
from llmgw_core.config.schema import OutgoingConfig
from llmgw_core.config.secrets import SecretText
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Timeouts
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.outgoing import Outgoing, Proxy, exemption
from llmgw_core.testing.forward_proxy import ForwardProxy
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer, completion
from llmgw_core.testing.upstream import Peer, Upstream, http_reply, repeating

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from llmgw_core.config.schema import DeploymentConfig
    from llmgw_core.testing.installation import Install

NAME = "models.test"
"""A host that only the proxy knows."""
NAMES = {NAME: "127.0.0.1"}
PASSWORD = "pass-word-of-the-proxy"
KINDS = pytest.mark.parametrize("transport", ["httptools", "aiohttp"])


def behind(proxy: Any, upstream: Any, **fields: Any) -> DeploymentConfig:
    """A deployment at NAME, through `proxy` (or what listens on its port)."""
    section = OutgoingConfig(
        proxy=f"http://127.0.0.1:{proxy.port}",
        proxy_user="gateway",
        proxy_password=fields.pop("password", PASSWORD),
        ca_file=fields.pop("ca", None),
        client_cert=fields.pop("cert", None),
        client_key=fields.pop("key", None),
    )
    deployment = at(upstream, **fields, outgoing=section)
    scheme = "https" if section.ca_file else "http"
    deployment.options.update(host=NAME, scheme=scheme)
    return deployment


@KINDS
async def test_chat_streams_and_embeddings_go_through_the_proxy(
    installed: Install, server: ModelServer, transport: str
) -> None:
    async with ForwardProxy(user="gateway", password=PASSWORD, names=NAMES) as proxy:
        here = await installed({"m": [behind(proxy, server, transport=transport)]})
        assert (await here.client.chat("m")).status == 200
        stream = await here.client.chat("m", stream=True)
        assert stream.body.endswith(b"data: [DONE]\n\n")
    paths = {target for _, target in proxy.seen}
    assert paths == {f"http://{NAME}:{server.port}/v1/chat/completions"}
    assert all(request.header(b"proxy-authorization") is None for request in server.requests)


class Files:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)

    def server(self, name: str, *, mutual: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(name).configure_cert(context)
        if mutual:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> tuple[str, str]:
        leaf = self.authority.issue_cert("client.example")
        cert, key = str(self.directory / "c.pem"), str(self.directory / "c.key")
        leaf.cert_chain_pems[0].write_to_path(cert)
        leaf.private_key_pem.write_to_path(key)
        return cert, key


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@KINDS
async def test_tls_goes_through_a_tunnel_to_a_name_that_only_the_proxy_knows(
    installed: Install, files: Files, transport: str
) -> None:
    cert, key = files.client()
    reply = http_reply(200, b'{"choices": [], "usage": null}', ((b"content-type", b"x/json"),))
    async with (
        ForwardProxy(user="gateway", password=PASSWORD, names=NAMES) as proxy,
        Upstream(repeating(reply), ssl_context=files.server(NAME, mutual=True)) as upstream,
    ):
        fields = {"ca": files.ca, "cert": cert, "key": key, "transport": transport}
        here = await installed({"m": [behind(proxy, upstream, **fields)]})
        assert (await here.client.chat("m")).status == 200
    assert proxy.seen == [("CONNECT", f"{NAME}:{upstream.port}")]
    [request] = upstream.requests
    assert request.target == "/v1/chat/completions"
    assert request.header(b"proxy-authorization") is None


async def test_a_proxy_that_speaks_tls_itself_can_carry_tls(files: Files) -> None:
    from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
    from llmgw_core.domain.deployment import Origin
    from llmgw_core.testing.transport_cases.base import fetch, post

    async with (
        ForwardProxy(ssl_context=files.server("127.0.0.1")) as proxy,
        Upstream(repeating(http_reply(200, b"x")), ssl_context=files.server("127.0.0.1")) as secure,
        Upstream(repeating(http_reply(200, b"y"))) as plain,
    ):
        way = Proxy("https", proxy.host, proxy.port)
        transport = HttptoolsTransport(outgoing=Outgoing(way, way, ca_file=files.ca))
        assert await fetch(transport, Origin("https", secure.host, secure.port), post()) == b"x"
        assert await fetch(transport, Origin("http", plain.host, plain.port), post()) == b"y"
        await transport.aclose()
    assert [method for method, _ in proxy.seen] == ["CONNECT", "POST"]


async def _hang(peer: Peer) -> None:
    await peer.head()
    await peer.stall()


async def _cut(peer: Peer) -> None:
    await peer.head()


async def _reset(peer: Peer) -> None:
    await peer.head()
    peer.reset()


def _says(text: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(text)
        await peer.gone()

    return script


FAULTS: dict[str, tuple[Callable[[Peer], Awaitable[None]], int]] = {
    "407": (_says(http_reply(407, b'{"error": "who?"}')), 503),
    "403": (_says(http_reply(403, b"<html>not on the list</html>")), 503),
    "502": (_says(http_reply(502)), 503),
    "504": (_says(http_reply(504)), 504),
    "cut": (_cut, 503),
    "reset": (_reset, 503),
    "hanging": (_hang, 504),
    "cut after the promise": (_says(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0"), 502),
    "another protocol": (_says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), 502),
    "an endless head": (_says(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 9000), 502),
}


@pytest.mark.parametrize("fault", [*FAULTS, "refused"])
async def test_a_proxy_that_fails_before_tls_is_a_clean_error_and_another_deployment_helps(
    installed: Install,
    server: ModelServer,
    files: Files,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    script, status = FAULTS.get(fault, (_cut, 503))
    timeouts = Timeouts(connect=0.2)
    async with Upstream(script) as proxy:
        port = proxy.port
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            if fault == "refused":
                proxy.port = closed.getsockname()[1]
            bad = behind(proxy, 443, ca=files.ca, timeouts=timeouts)
            here = await installed({"m": [bad], "n": [bad, at(server, "b")]})
            refused = await here.client.chat("m")
            helped = [(await here.client.chat("n")).status for _ in range(2)]
        proxy.port = port
    assert refused.status == status
    said = bytes(refused.body)
    assert b'"error"' in said
    assert not [word for word in (b"proxy", b"127.0.0.1", NAME.encode()) if word in said]
    assert helped == [200, 200]
    assert PASSWORD not in caplog.text
    assert "attempt failed" in caplog.text


@KINDS
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_password_that_the_proxy_refuses_is_no_fault_of_the_client(
    installed: Install,
    server: ModelServer,
    files: Files,
    scheme: str,
    transport: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with ForwardProxy(user="gateway", password="another", names=NAMES) as proxy:
        fields: dict[str, Any] = {"transport": transport}
        if scheme == "https":
            fields["ca"] = files.ca
        here = await installed({"m": [behind(proxy, server, **fields)]})
        sink = await here.client.chat("m")
    assert sink.status == 503
    assert b"407" not in sink.body
    assert server.requests == []
    assert "407" in caplog.text
    assert PASSWORD not in caplog.text


async def test_a_changed_password_file_opens_the_next_connection(
    installed: Install, server: ModelServer, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    path.write_text("old")
    text = SecretText("old")
    text.file = path
    async with ForwardProxy(user="gateway", password="new", names=NAMES) as proxy:
        here = await installed({"m": [behind(proxy, server, password=text)]})
        assert (await here.client.chat("m")).status == 503
        path.write_text("new")
        [watched] = here.gateway._foundation.secrets._files
        credential = watched()
        assert credential is not None
        assert credential.look()
        assert (await here.client.chat("m")).status == 200


async def test_a_rotated_key_file_changes_the_next_upstream_request(
    installed: Install, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text("old-key")
    text = SecretText("old-key")
    text.file = path
    valid = {"key": b"Bearer old-key"}

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            good = request.header(b"authorization") == valid["key"]
            body = b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
            await peer.send(http_reply(200, body) if good else http_reply(401, b"{}"))

    async with Upstream(script) as upstream:
        here = await installed({"m": [at(upstream, credential=text)]})
        assert (await here.client.chat("m")).status == 200
        valid["key"] = b"Bearer new-key"
        path.write_text("new-key\n")
        assert (await here.client.chat("m")).status == 200
        keys = [request.header(b"authorization") for request in upstream.requests]
        assert keys == [b"Bearer old-key", b"Bearer old-key", b"Bearer new-key"]
        path.unlink()
        assert (await here.client.chat("m")).status == 200
        valid["key"] = b"Bearer something else"
        assert (await here.client.chat("m")).status == 502
    assert len(await here.records()) == 4


async def test_a_changed_client_certificate_is_shown_to_the_next_connection(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from llmgw_core.backends.transport import tls
    from llmgw_core.backends.transport.tls import TlsContext, TlsFiles

    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    cert, key = files.client()
    context = TlsContext(TlsFiles(files.ca, True, cert, key))
    first = await context.get()
    assert await context.get() is first
    other = trustme.CA().issue_cert("other.example")
    other.cert_chain_pems[0].write_to_path(cert)  # half of a pair
    assert await context.get() is first
    assert await context.get() is first
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == 1
    other.private_key_pem.write_to_path(key)
    second = await context.get()
    assert second is not first
    (files.directory / "c.pem").unlink()
    assert await context.get() is second


async def test_plugins_http_goes_the_same_way(server: ModelServer, files: Files) -> None:
    async with ForwardProxy(user="gateway", password=PASSWORD, names=NAMES) as proxy:
        way = Proxy("http", proxy.host, proxy.port, "gateway", Credential(PASSWORD))
        secure = Upstream(repeating(http_reply(200, b"s")), ssl_context=files.server(NAME))
        outgoing = Outgoing(way, way, ca_file=files.ca)
        async with secure, open_session(outgoing) as session:
            body = {"model": "m"}
            url = f"http://{NAME}:{server.port}/v1/chat/completions"
            async with session.post(url, json=body) as reply:
                assert (await reply.json())["id"] == completion()["id"]
            async with session.get(f"https://{NAME}:{secure.port}/x") as reply:
                assert await reply.text() == "s"
    assert [method for method, _ in proxy.seen] == ["POST", "CONNECT"]


async def test_plugins_http_reaches_what_is_exempt_directly(server: ModelServer) -> None:
    async with ForwardProxy() as proxy:
        way = Proxy("http", proxy.host, proxy.port)
        outgoing = Outgoing(way, way, no_proxy=(exemption("127.0.0.1"),))
        async with open_session(outgoing) as session:
            url = f"http://127.0.0.1:{server.port}/v1/embeddings"
            async with session.post(url, json={}) as reply:
                assert reply.status == 200
            async with session.post(url, json={}, proxy=proxy.url) as reply:
                assert reply.status == 200
        async with open_session(Outgoing()) as session, session.post(url, json={}) as reply:
            assert reply.status == 200
    assert proxy.accepted == 1


async def test_plugins_http_says_which_files_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="certificate files cannot be used"):
        open_session(Outgoing(ca_file=str(tmp_path / "none.pem")))
