"""TLS on both servers: what is offered, what is refused, and certificates that change."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import openai
import pytest
from cryptography.hazmat.primitives import serialization

from llmgw_core.config.schema import ListenerConfig, TlsConfig
from llmgw_core.testing.installation import at
from llmgw_server.app import create_app
from llmgw_server.certificates import CertificateError, Certificates
from llmgw_server.listening import ServeError, open_listeners

from .conftest import Authority, Entrance, reply, running

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Sink
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

GET = b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n"


async def ok(head: Head, body: Body, sink: Sink) -> None:
    await reply(sink, b"ok")


def secured(authority: Authority, **fields: str) -> Entrance:
    certificate, key = authority.issue("server")
    return Entrance(ok, port=0, tls=TlsConfig(certificate, key, **fields))  # type: ignore[arg-type]


async def test_the_official_client_and_http2_go_over_tls(
    kind: str, authority: Authority, installed: Install, server: ModelServer
) -> None:
    certificate, key = authority.issue("server")
    settings = Entrance(ok, port=0, tls=TlsConfig(certificate, key)).config.server
    installation = await installed({"m": [at(server)]}, server=settings)
    application = create_app(installation.gateway)
    async with running(application, kind, configured=True) as served:
        context = authority.trusting()
        async with (
            httpx.AsyncClient(verify=context, http2=True) as http2,
            openai.AsyncOpenAI(
                base_url=f"{served.urls[0]}/v1",
                api_key=installation.tenant.key,
                http_client=openai.DefaultAsyncHttpxClient(verify=context),
            ) as client,
        ):
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hi"}]
            )
            assert answer.choices[0].message.content == "Hello there"
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
            )
            assert [event async for event in stream]
            status = await http2.get(f"{served.urls[0]}/health/ready")
            assert status.json() == {"status": "ready"}
            assert status.http_version == ("HTTP/2" if kind == "hypercorn" else "HTTP/1.1")
            models = await http2.get(
                f"{served.urls[0]}/v1/models",
                headers={"authorization": f"Bearer {installation.tenant.key}"},
            )
            assert models.status_code == 200


async def test_old_protocols_weak_ciphers_and_plain_text_are_not_served(
    kind: str, authority: Authority
) -> None:
    async with running(secured(authority).application(), kind, configured=True) as server:
        old = authority.trusting()
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        weak = authority.trusting()
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("AES128-SHA256:AES256-GCM-SHA384")  # no forward secrecy
        for context in (old, weak):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await server.connect(ssl=context)
        reader, _ = await server.send(GET)
        assert b"200 OK" not in await reader.read()
        assert (await server.exchange(GET, ssl=authority.trusting()))[2] == b"ok"


async def test_only_tls_1_3_if_so_configured(kind: str, authority: Authority) -> None:
    entrance = secured(authority, minimum_version="1.3")
    async with running(entrance.application(), kind, configured=True) as server:
        context = authority.trusting()
        _, writer = await server.connect(ssl=context)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await server.connect(ssl=context)


async def serial(server: object, context: ssl.SSLContext) -> object:
    _, writer = await server.connect(ssl=context)  # type: ignore[attr-defined]
    return writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]


async def test_a_new_certificate_is_used_by_new_handshakes_and_old_connections_live_on(
    kind: str,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("llmgw_server.certificates.LOOK_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "llmgw_server.certificates")
    entrance = secured(authority)
    tls = entrance.config.server.tls
    assert tls is not None
    context = authority.trusting()
    async with running(entrance.application(), kind, configured=True) as server:
        reader, writer = await server.connect(ssl=context)
        before = await serial(server, context)
        authority.issue("server")
        await said(caplog, "server.tls: the new certificate is in use.")
        after = await serial(server, context)
        assert after != before
        writer.write(GET)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        # One that cannot be used changes nothing and is said once.
        other, _ = authority.issue("other")
        shutil.copy(other, tls.certificate)
        await said(caplog, f"{tls.key} is not the private key of {tls.certificate}. The old")
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert await serial(server, context) == after
        assert caplog.text.count("The old certificate stays in use.") == 1
        assert writer.get_extra_info("ssl_object").getpeercert()["serialNumber"] == before


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(10):
        while text not in caplog.text:  # noqa: ASYNC110 -- the log has no event
            await asyncio.sleep(0.01)


def test_half_a_change_is_waited_out(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.issue("server")
    certificates = Certificates(TlsConfig(*files), "server.tls", ())
    first = certificates.context
    new = authority.issue("new")
    shutil.copy(new[0], files[0])
    certificates.look()  # certificate without its key, but only just
    shutil.copy(new[1], files[1])
    certificates.look()
    assert certificates.context is first
    certificates.look()
    assert certificates.context is not first
    Path(files[1]).unlink()
    certificates.look()
    certificates.look()
    assert f"server.tls.key: {files[1]} cannot be read" in caplog.text


def test_a_key_that_vanishes_while_it_is_read_leaves_the_old_certificate_in_place(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tls = TlsConfig(*authority.issue("server"))
    certificates = Certificates(tls, "server.tls", ())
    before = certificates.context

    def vanish(_: Certificates, field: str, path: str) -> None:
        if field == "key":
            Path(path).unlink()

    monkeypatch.setattr(Certificates, "_readable", vanish)
    authority.issue("server")
    for _ in range(2):
        certificates.look()
    assert certificates.context is before
    assert "The old certificate stays in use." in caplog.text


def test_what_cannot_be_used_is_a_sentence_with_path_and_remedy(authority: Authority) -> None:
    certificate, key = authority.issue("server")
    _, foreign = authority.issue("other")
    nonsense = authority.directory / "nonsense"
    nonsense.write_text("no certificate")
    for tls, sentence in (
        (TlsConfig("no-such", key), "server.tls.certificate: no-such cannot be read: No such"),
        (TlsConfig(certificate, "no-such"), "server.tls.key: no-such cannot be read: No such"),
        (TlsConfig(certificate, foreign), f"server.tls.key: {foreign} is not the private key of"),
        (TlsConfig(str(nonsense), key), "is not in PEM format."),
        (
            TlsConfig(certificate, key, client_ca="no-such"),
            "server.tls.client_ca: no-such cannot be read",
        ),
        (
            TlsConfig(certificate, key, client_ca=str(nonsense)),
            f"server.tls.client_ca: {nonsense} holds no certificate in PEM format.",
        ),
    ):
        with pytest.raises(CertificateError) as error:
            Certificates(tls, "server.tls", ())
        assert sentence in str(error.value)


def test_an_encrypted_key_needs_its_password(authority: Authority) -> None:
    certificate, key = authority.issue("server")
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    Path(key).write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert Certificates(TlsConfig(certificate, key, key_password="secret"), "server.tls", ())
    for password in ("", "wrong"):
        with pytest.raises(CertificateError, match=r"server.tls.key_password: does not open .*key"):
            Certificates(TlsConfig(certificate, key, key_password=password), "server.tls", ())


def test_a_listener_that_cannot_be_opened_leaves_none_open(authority: Authority) -> None:
    bad = ListenerConfig(tls=TlsConfig("no-such", "no-such"))
    settings = Entrance(ok, port=0, metrics=bad).config.server
    with pytest.raises(CertificateError, match=r"server.metrics.tls.certificate: no-such"):
        open_listeners(settings, server="hypercorn")
    taken = ListenerConfig(host="no-such-host.invalid")
    with pytest.raises(ServeError, match="not an address of this machine"):
        open_listeners(Entrance(ok, port=0, admin=taken).config.server, server="uvicorn")
