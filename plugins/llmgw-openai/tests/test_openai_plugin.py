"""The backend against an upstream on a real socket, over the gateway's own transport."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.backends.transport.httptools_transport import HttptoolsTransport
from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.call import Call, Endpoint, Head
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.errors import ConfigError
from llmgw_core.testing.model_server import ModelServer
from llmgw_core.testing.plugins import host_of
from llmgw_core.wire.request import decode_request
from llmgw_openai import OpenAIPlugin
from llmgw_openai.options import OpenAIOptions
from llmgw_openai.plugin import OpenAIBackend

if TYPE_CHECKING:
    from llmgw_core.backends.port import Backend, Reply

QUESTION = {"model": "public", "messages": [{"role": "user", "content": "Hello?"}], "odd": [1.50]}


def deployment(base_url: str, *, credential: str = "", **options: Any) -> Deployment:
    return Deployment(
        id="public/there",
        model="public",
        backend="openai",
        zone="world",
        upstream_model="their-name",
        credential=Credential(credential),
        options=msgspec.convert({"base_url": base_url} | options, OpenAIOptions),
    )


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    section = PluginConfig(name="openai")
    return host_of(tmp_path, ("openai", OpenAIPlugin), configs=(section,)).backends["openai"]


def call_of(body: dict[str, Any], endpoint: Endpoint = "chat.completions") -> Call:
    call = Call("call-1", endpoint, Head("POST", "/v1", ()), 0.0, 0)
    call.request = decode_request(json.dumps(body).encode(), endpoint)
    return call


async def send(backend: Backend, target: Deployment, call: Call) -> Reply:
    """One attempt, not streamed."""
    session = backend.begin(call, target, target.credential.value)
    transport = HttptoolsTransport()
    try:
        (request,) = session.requests()
        answer = await transport.send(backend.origin(target), request, target.timeouts)
        return session.reply(answer.status, answer.headers, await answer.read(100_000))
    finally:
        await transport.aclose()


async def test_a_call_goes_to_the_address_with_the_credential(backend: Backend) -> None:
    async with ModelServer() as server:
        target = deployment(f"http://127.0.0.1:{server.port}/some/v1/", credential="sk-secret")
        backend.check(target)
        reply = await send(backend, target, call_of(QUESTION))
    assert reply.body == server.reply
    assert reply.usage is not None
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/some/v1/chat/completions")
    assert request.header(b"authorization") == b"Bearer sk-secret"
    assert request.header(b"x-request-id") == b"call-1"
    assert json.loads(request.body) == QUESTION | {"model": "their-name"}


async def test_embeddings_have_a_path_of_their_own(backend: Backend) -> None:
    async with ModelServer() as server:
        target = deployment(f"http://127.0.0.1:{server.port}")
        body = {"model": "public", "input": "Hello"}
        reply = await send(backend, target, call_of(body, "embeddings"))
    assert reply.body == server.embeddings
    assert server.requests[0].target == "/embeddings"
    assert server.requests[0].header(b"authorization") is None


async def test_a_stream_is_read_to_its_end(backend: Backend) -> None:
    async with ModelServer() as server:
        target = deployment(f"http://127.0.0.1:{server.port}/v1")
        session = backend.begin(call_of(QUESTION | {"stream": True}), target, "")
        transport = HttptoolsTransport()
        try:
            (request,) = session.requests()
            answer = await transport.send(backend.origin(target), request, target.timeouts)
            reader = session.stream(answer.status, answer.headers)
            assert reader is not None
            received = b""
            while data := await answer.chunk():
                received += reader.feed(data)
            received += reader.end()
        finally:
            await transport.aclose()
    assert b'"Hello"' in received
    assert received.endswith(b"data: [DONE]\n\n")
    assert reader.usage is not None


@pytest.mark.parametrize(
    ("auth_header", "name", "value"),
    [
        ("api-key", b"api-key", b"sk-secret"),
        ("x-token: Token", b"x-token", b"Token sk-secret"),
        ("authorization: Basic", b"authorization", b"Basic sk-secret"),
    ],
)
async def test_the_credential_can_have_another_header(
    backend: Backend, auth_header: str, name: bytes, value: bytes
) -> None:
    async with ModelServer() as server:
        url = f"http://127.0.0.1:{server.port}"
        target = deployment(
            url, credential="sk-secret", auth_header=auth_header, organization="org-7"
        )
        await send(backend, target, call_of(QUESTION))
    sent = [pair for pair in server.requests[0].headers if b"sk-secret" in pair[1]]
    assert sent == [(name, value)]
    assert server.requests[0].header(b"openai-organization") == b"org-7"


async def test_without_a_credential_no_header_is_sent_for_it(backend: Backend) -> None:
    async with ModelServer() as server:
        url = f"http://127.0.0.1:{server.port}"
        await send(backend, deployment(url, auth_header="api-key"), call_of(QUESTION))
    assert server.requests[0].header(b"api-key") is None


def test_an_address_that_cannot_work_is_found_by_the_check(backend: Backend) -> None:
    with pytest.raises(ConfigError, match="must look like") as raised:
        backend.check(deployment("host/v1"))
    assert raised.value.path == "base_url"


def test_a_credential_that_no_header_can_carry_is_found_by_the_check(backend: Backend) -> None:
    target = deployment("https://host", credential="sk-secret\n")
    with pytest.raises(ConfigError) as raised:
        backend.check(target)
    assert raised.value.path == "credential"
    assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["ca_file", "client_key"])
def test_a_tls_file_that_is_not_there_is_found_by_the_check(
    backend: Backend, name: str, tmp_path: Path
) -> None:
    files = {each: str(tmp_path / each) for each in ("ca_file", "client_cert", "client_key")}
    for each, path in files.items():
        if each != name:
            Path(path).touch()
    with pytest.raises(ConfigError, match="there is no file") as raised:
        backend.check(deployment("https://host", **files))
    assert raised.value.path == name


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({}, (b"authorization", b"Bearer sk-x")),
        ({"auth_header": "api-key"}, (b"api-key", b"sk-x")),
        ({"auth_header": "x-auth: Token"}, (b"x-auth", b"Token sk-x")),
    ],
)
def test_its_upstream_is_asked_for_its_models_with_the_credential(
    options: dict[str, str], header: tuple[bytes, bytes]
) -> None:
    target = deployment("http://h/v1", **options)
    request = OpenAIBackend().inquire(target, "sk-x").request
    assert (request.method, request.target) == ("GET", "/v1/models")
    assert header in request.headers
    assert OpenAIBackend().inquire(target, "").request.headers == ()


@pytest.mark.parametrize(
    ("base_url", "target"),
    [
        ("http://h:8000/v1", "/health"),
        ("http://h:8000/v1/", "/health"),
        ("http://h:8000", "/health"),
        ("http://h/team/v1", "/team/health"),
        ("http://h/openai", "/openai/health"),
    ],
)
def test_pages_of_its_upstream_stand_beside_the_api(base_url: str, target: str) -> None:
    asked = deployment(base_url, headers={"x-fixed": "1"})
    request = OpenAIBackend().page(asked, "sk-x", "/health")
    assert (request.method, request.target) == ("GET", target)
    assert request.headers == ((b"x-fixed", b"1"), (b"authorization", b"Bearer sk-x"))
