"""Client certificates that say who calls, on both servers, with a real gateway behind."""

from __future__ import annotations

import datetime as dt
import json
import ssl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from llmgw_core.config.schema import CertificateRule, ServerConfig, TlsConfig
from llmgw_core.domain.access import Subject
from llmgw_core.domain.errors import GatewayError
from llmgw_core.tenancy.records import KEY, ORGANIZATION, TEAM
from llmgw_core.testing.installation import at
from llmgw_server.app import create_app
from llmgw_server.identity import Certificate, Identified, subject_of

from .conftest import Authority, running

if TYPE_CHECKING:
    from llmgw_core.domain.call import Body, Head, Headers
    from llmgw_core.tenancy.records import Kind
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

ADMIN = "admin"
RULES = (
    CertificateRule(common_name="billing", organization="acme", team="team"),
    CertificateRule(dns="Batch.example", organization="acme", team="team", user="user"),
    CertificateRule(uri="spiffe://example/chat", organization="acme"),
    CertificateRule(common_name="nobody", organization="no-such"),
)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def tls(authority: Authority, *rules: CertificateRule, **fields: Any) -> ServerConfig:
    certificate, key = authority.issue("server")
    section = TlsConfig(certificate, key, client_ca=authority.file, principals=rules, **fields)
    return ServerConfig(port=0, tls=section)


def with_uri(authority: Authority, uri: str) -> tuple[str, str]:
    """A client certificate with a URI, which `trustme` does not make."""
    ca_key = serialization.load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    ca = x509.load_pem_x509_certificate(authority.ca.cert_pem.bytes())
    _, key = authority.issue("uri")
    own = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(own.public_key())  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), True)
        .sign(ca_key, hashes.SHA256())  # type: ignore[arg-type]
    )
    file = authority.directory / "uri.pem"
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return str(file), key


def client(
    authority: Authority, *files: str, url: str, http2: bool = False, **headers: str
) -> httpx.AsyncClient:
    context = authority.trusting(*files)
    return httpx.AsyncClient(verify=context, http2=http2, base_url=url, headers=headers)


async def callers(installation: Installation) -> list[tuple[str | None, ...]]:
    return [
        (record.organization_id, record.team_id, record.user_id, record.key_id)
        for record in await installation.records()
    ]


async def test_a_certificate_that_a_rule_fits_needs_no_key(
    kind: str, authority: Authority, installed: Install, server: ModelServer
) -> None:
    settings = tls(authority, *RULES)
    installation = await installed({"m": [at(server)]}, server=settings)
    tenant = installation.tenant
    shown = [
        authority.issue("billing", "x.example", common_name="billing"),
        authority.issue("batch", "batch.example"),
        with_uri(authority, "spiffe://example/chat"),
    ]
    async with running(create_app(installation.gateway), kind, configured=True) as served:
        for files in shown:
            # A key that is wrong does no harm: clients of this API always send one.
            async with client(
                authority, *files, url=served.urls[0], http2=True, authorization="Bearer x"
            ) as caller:
                for _ in range(2):
                    answer = await caller.post("/v1/chat/completions", json=CHAT)
                    assert answer.status_code == 200, answer.text
                assert (await caller.get("/health/live")).status_code == 200
    assert await callers(installation) == [
        *[(tenant.organization_id, tenant.team_id, None, None)] * 2,
        *[(tenant.organization_id, tenant.team_id, tenant.user_id, None)] * 2,
        *[(tenant.organization_id, None, None, None)] * 2,
    ]


async def test_one_that_no_rule_fits_says_nothing_and_a_key_counts(
    kind: str, authority: Authority, installed: Install, server: ModelServer
) -> None:
    settings = tls(authority, *RULES, client_certificates="optional")
    installation = await installed({"m": [at(server)]}, server=settings)
    files = authority.issue("other", "other.example")
    async with running(create_app(installation.gateway), kind, configured=True) as served:
        for shown in ((), files):
            async with client(authority, *shown, url=served.urls[0]) as caller:
                refused = await caller.post("/v1/chat/completions", json=CHAT)
                assert refused.status_code == 401
                assert refused.json()["error"]["message"] == "You did not provide an API key."
                key = {"authorization": f"Bearer {installation.tenant.key}"}
                answer = await caller.post("/v1/chat/completions", json=CHAT, headers=key)
                assert answer.status_code == 200


async def test_without_a_certificate_of_our_authority_there_is_no_connection(
    kind: str, authority: Authority, installed: Install, server: ModelServer
) -> None:
    installation = await installed({"m": [at(server)]}, server=tls(authority, *RULES))
    elsewhere = Authority(authority.directory, "elsewhere")
    strange = elsewhere.issue("strange", common_name="billing")
    async with running(create_app(installation.gateway), kind, configured=True) as served:
        for files in ((), strange):
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                async with client(authority, *files, url=served.urls[0]) as caller:
                    await caller.post("/v1/chat/completions", json=CHAT)
    assert await installation.records() == []


async def test_whoever_is_off_is_refused_on_the_next_call(
    kind: str, authority: Authority, installed: Install, server: ModelServer
) -> None:
    files = authority.issue("app", "app.example")
    loaded = x509.load_pem_x509_certificate(Path(files[0]).read_bytes())
    shown = loaded.fingerprint(hashes.SHA256()).hex().upper()
    fingerprint = ":".join(shown[i : i + 2] for i in range(0, 64, 2))
    installation = await installed({"m": [at(server)]}, server=tls(authority))
    gateway, tenant = installation.gateway, installation.tenant
    rule = CertificateRule(fingerprint=fingerprint, key=tenant.key_id)
    settings = tls(authority, rule)  # the id of the key is known only now
    async with (
        running(create_app(gateway), kind, instead=settings) as served,
        client(authority, *files, url=served.urls[0]) as caller,
    ):

        async def status() -> int:
            await gateway.principals.poll()
            answer = await caller.post("/v1/chat/completions", json=CHAT)
            if answer.status_code == 401:
                error = answer.json()["error"]
                assert error["code"] == "invalid_api_key"
                assert error["request_id"] == answer.headers["x-request-id"]
            return answer.status_code

        assert await status() == 200
        levels: tuple[tuple[Kind[Any], str], ...] = (
            (KEY, tenant.key_id),
            (TEAM, tenant.team_id),
            (ORGANIZATION, tenant.organization_id),
        )
        for level, id in levels:
            await gateway.tenancy.disable(level, id, actor=ADMIN)
            assert await status() == 401
            await gateway.tenancy.enable(level, id, actor=ADMIN)
            assert await status() == 200
        await gateway.tenancy.revoke_key(tenant.key_id, actor=ADMIN)
        assert await status() == 401
    assert gateway.stats.refusals["invalid_api_key"] == 4


def decoded(**fields: Any) -> Certificate:
    peer = {
        "subject": ((("organizationName", "x"),), (("commonName", "app"),)),
        "subjectAltName": (("DNS", "app.example"), ("URI", "spiffe://example/app")),
        "notAfter": "Jan  1 00:00:00 2030 GMT",
    }
    return Certificate({**peer, **fields}, b"der")


def test_a_rule_must_fit_in_everything_and_the_first_one_counts() -> None:
    rules = (
        CertificateRule(common_name="app", dns="other.example", key="key_0"),
        CertificateRule(common_name="app", uri="spiffe://example/app", organization="o", team="t"),
        CertificateRule(common_name="app", key="key_2"),
    )
    assert subject_of(rules, decoded()) == Subject(organization="o", team="t")
    assert subject_of(rules, decoded(subjectAltName=())) == Subject(key="key_2")
    assert subject_of(rules, decoded(subject=())) is None


class Silent:
    """A sink that keeps the status."""

    def __init__(self) -> None:
        self.gone = False
        self.on_gone = None
        self.status = 0
        self.body = b""

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status

    async def write(self, data: bytes) -> None:
        raise AssertionError

    async def finish(self, data: bytes = b"") -> None:
        self.body = data


class Unasked:
    """A gateway that must not be asked."""

    def __init__(self) -> None:
        self.stats = type("Stats", (), {"refusals": {"invalid_api_key": 0, "unavailable": 0}})()
        self.principals = self

    def new_call_id(self) -> str:
        return "id"

    async def resolve_subject(self, subject: Subject) -> None:
        raise GatewayError(503, "unavailable", "The store is down.")

    async def handle(self, head: Head, body: Body, sink: Silent, principal: Any = None) -> None:
        raise AssertionError


async def test_a_certificate_that_expires_on_its_connection_is_refused() -> None:
    ends = decoded().ends_at
    for now, status, code in ((ends, 401, "invalid_api_key"), (ends - 1, 503, "unavailable")):
        gateway: Any = Unasked()
        sink: Any = Silent()
        entrance = Identified(gateway, Subject(key="k"), ends, clock=partial(float, now))
        await entrance.handle(None, None, sink)  # type: ignore[arg-type]
        assert (sink.status, json.loads(sink.body)["error"]["code"]) == (status, code)
        assert gateway.stats.refusals[code] == 1
