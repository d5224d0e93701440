"""Whether deployments can be reached: each thing that can be wrong, over real sockets."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trustme

from llmgw_core.backends.inquiry import ModelsInquiry
from llmgw_core.checking import check_file
from llmgw_core.connecting import Reach, reach
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment, Origin
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalBackend, CanonicalPlugin
from llmgw_core.testing.plugins import host_of
from llmgw_core.testing.upstream import Peer, Upstream, http_reply, repeating

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.hooks.host import PluginHost

LISTING = json.dumps({"object": "list", "data": [{"id": "m"}, {"id": "n"}]}).encode()


class Options(msgspec.Struct, frozen=True):
    port: int = 0
    host: str = "127.0.0.1"
    scheme: str = "http"
    ca_file: str = ""


class Asking(CanonicalBackend):
    """A backend whose upstream lists its models."""

    name = "asking"
    Options = Options  # type: ignore[assignment]

    def origin(self, deployment: Deployment) -> Origin:
        options = deployment.options
        if not options.port:
            raise UpstreamFailure("unavailable", "the engine is not running")
        return Origin(options.scheme, options.host, options.port, options.ca_file)

    def inquire(self, deployment: Deployment, credential: str) -> ModelsInquiry:
        return ModelsInquiry("/v1", [(b"authorization", b"Bearer " + credential.encode())])


@pytest.fixture
def host(tmp_path: Path) -> PluginHost:
    class Registers:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def register_backends(self) -> list[Any]:
            return [Asking()]

    return host_of(tmp_path, ("asking", Registers), ("canonical", CanonicalPlugin))


def at(backend: str = "asking", model: str = "m", **options: Any) -> Deployment:
    kind = Options if backend == "asking" else CanonicalBackend.Options
    return Deployment("m/a", "m", backend, "z", model, options=kind(**options))


async def found(host: PluginHost, deployment: Deployment, seconds: float = 5.0) -> Reach:
    [result] = await reach([deployment], host, seconds=seconds)
    return result


@pytest.mark.parametrize(
    ("status", "body", "model", "ok", "message"),
    [
        (200, LISTING, "m", True, "answers and has the model `m`."),
        (200, LISTING, "o", False, "answers, but does not list the model `o`."),
        (401, b"", "m", False, "the credential is refused."),
        (404, b"", "m", True, "answers; it does not list its models."),
        (500, b"", "m", False, "it answers with status 500."),
        (200, b"<html>", "m", False, "it answers, but not with a list of models."),
    ],
)
async def test_what_the_upstream_answers_is_judged(
    host: PluginHost, status: int, body: bytes, model: str, ok: bool, message: str
) -> None:
    async with Upstream(repeating(http_reply(status, body))) as upstream:
        result = await found(host, at(model=model, port=upstream.port))
    assert (result.ok, result.message, result.certificate_days) == (ok, message, None)
    assert upstream.requests[0].target == "/v1/models"


async def test_nobody_there_and_no_answer_are_told_apart(host: PluginHost) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert "cannot be reached (refused)" in (await found(host, at(port=port))).message
        plain = await found(host, at("canonical", port=port))
        assert (plain.ok, "cannot be connected to" in plain.message) == (False, True)
    assert (
        "cannot be reached (dns)"
        in (await found(host, at(host="nowhere.invalid", port=80))).message
    )
    async with Upstream(silent) as upstream:
        result = await found(host, at(port=upstream.port), seconds=0.1)
        assert not result.ok


async def test_a_backend_with_nothing_to_ask_is_only_connected_to(host: PluginHost) -> None:
    async with Upstream(repeating(b"")) as upstream:
        result = await found(host, at("canonical", port=upstream.port))
        assert (result.ok, result.message) == (True, "can be connected to.")
    engine = await found(host, at(port=0))
    assert (engine.ok, "started by the gateway itself" in engine.message) == (True, True)


@pytest.fixture
def encrypted(tmp_path: Path) -> Callable[[], tuple[ssl.SSLContext, str]]:
    """A server's context and the file of its authority."""

    def made() -> tuple[ssl.SSLContext, str]:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        return context, str(tmp_path / "ca.pem")

    return made


async def test_certificates_are_judged_and_their_days_counted(
    host: PluginHost, encrypted: Callable[[], tuple[ssl.SSLContext, str]]
) -> None:
    context, ca_file = encrypted()
    async with Upstream(repeating(http_reply(200, LISTING)), ssl_context=context) as upstream:
        secure = at(scheme="https", port=upstream.port, ca_file=ca_file)
        [good] = await reach([secure], host)
        assert (good.ok, good.remark) == (True, "")
        assert good.certificate_days is not None
        days = good.certificate_days
        [late] = await reach([secure], host, wall_clock=_shifted(days - 3))
        assert late.remark == "its certificate ends in 3 days."
        [unknown] = await reach([at(scheme="https", port=upstream.port)], host)
        assert (unknown.ok, "its certificate is not accepted" in unknown.message) == (False, True)


def _shifted(days: int) -> Callable[[], float]:
    import time

    return lambda: time.time() + days * 86400


async def test_a_file_with_errors_has_no_deployments_to_try(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text("plugins: [{name: nobody}, {name: neither}]")
    checked = check_file(file)
    assert len(checked.errors) == 2
    assert checked.models == {}


async def test_each_of_several_credentials_is_tried(host: PluginHost) -> None:
    async def script(peer: Peer) -> None:
        while True:
            shown = dict((await peer.request()).headers)[b"authorization"]
            listing = http_reply(200, LISTING)
            await peer.send(http_reply(401) if shown.endswith(b"bad") else listing)

    def having(*secrets: str) -> Deployment:
        credentials = tuple(map(Credential, secrets))
        options = Options(port=upstream.port)
        return Deployment("m/a", "m", "asking", "z", "m", credentials=credentials, options=options)

    async with Upstream(script) as upstream:
        good = await found(host, having("one", "two"))
        assert (good.ok, good.message) == (True, "answers and has the model `m`.")
        bad = await found(host, having("one", "bad"))
        assert (bad.ok, bad.message) == (False, "credential 2 of 2 is refused.")
        assert len(upstream.requests) == 4
