"""What is refused costs nobody anything: no body read before the key, no record, no reservation."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import RequestLimits
from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.limits import Limits
from llmgw_core.tenancy.records import KEY
from llmgw_core.testing.client import Client, MemoryBody, MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.plugins import authenticator

if TYPE_CHECKING:
    from llmgw_core.domain.call import Headers
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

JSON = (b"content-type", b"application/json")
CHAT = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
REQUEST_ID = re.compile(r"req_[0-9a-f]{32}")


@pytest.fixture
async def here(installed: Install, server: ModelServer) -> Installation:
    """One chat model, one embedding model, one that the tenant is not granted."""
    return await installed(
        {
            "m": [at(server)],
            "e": served_by(at(server), kind="embedding"),
            "hidden": [at(server)],
        },
        tenant={"models": ["m", "e"], "limits": Limits(rpm=100, tpm=10_000, parallel=2)},
        requests=RequestLimits(body_bytes=10_000),
    )


async def send(
    here: Installation,
    data: bytes = CHAT,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    headers: Headers | None = None,
) -> tuple[MemorySink, MemoryBody]:
    if headers is None:
        headers = (JSON, (b"authorization", b"Bearer " + here.tenant.key.encode()))
    sink, body = MemorySink(), MemoryBody(data)
    await here.gateway.handle(Head(method, path, headers), body, sink)
    assert sink.finished
    return sink, body


async def assert_untouched(here: Installation, server: ModelServer) -> None:
    """Nothing was booked, reserved or sent."""
    assert await here.records() == []
    assert server.requests == []
    assert here.gateway.stats.in_flight == 0
    reply = await here.client.chat("m")
    assert reply.headers["x-ratelimit-remaining-requests"] == "99"


def error_of(sink: MemorySink) -> dict[str, Any]:
    """The error, whose envelope is checked on the way."""
    assert sink.headers["content-type"] == "application/json"
    assert REQUEST_ID.fullmatch(sink.headers["x-request-id"])
    [(name, error)] = sink.json().items()
    assert name == "error"
    assert error["request_id"] == sink.headers["x-request-id"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "credentials",
    [
        (),
        ((b"authorization", b"Bearer nonsense"),),
        ((b"authorization", b"Bearer "),),
        ((b"authorization", b"Bearer \xff\xfe\x80"),),
        ((b"authorization", b"Basic abc"),),
        ((b"authorization", b""),),
        ((b"x-api-key", b""),),
        ((b"api-key", b"llmgw_" + b"A" * 49),),
        ((b"cookie", b"key=1"),),
    ],
)
async def test_without_a_good_key_no_body_is_read(
    here: Installation, server: ModelServer, credentials: Headers
) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        sink, body = await send(here, path=path, headers=(JSON, *credentials))
        assert (sink.status, error_of(sink)["code"]) == (401, "invalid_api_key")
        assert sink.headers["x-should-retry"] == "false"
        assert body.reads == 0
    assert here.gateway.stats.refusals["invalid_api_key"] == 2
    await assert_untouched(here, server)


async def test_unknown_disabled_and_expired_keys_look_the_same(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenancy = here.gateway.tenancy
    organization = here.tenant.organization_id
    expired = await here.another("late", expires_at=time.time() + 60)
    monkeypatch.setattr(here.gateway.principals, "_wall_clock", lambda: time.time() + 61)
    info, disabled = await tenancy.create_key(organization=organization, actor="t")
    await tenancy.disable(KEY, info.id, actor="t")
    _, known = await tenancy.create_key(organization=organization, actor="t")
    unknown = known[:-1] + ("A" if known[-1] != "A" else "B")
    texts = set()
    for key in (expired.key, disabled, unknown):
        assert key is not None
        sink, body = await send(here, headers=(JSON, (b"authorization", b"Bearer " + key.encode())))
        assert (sink.status, body.reads) == (401, 0)
        texts.add(sink.body.replace(sink.headers["x-request-id"].encode(), b""))
    assert len(texts) == 1


@pytest.mark.parametrize("field", [b"x-api-key", b"api-key"])
async def test_a_key_may_come_as_other_clients_send_it(here: Installation, field: bytes) -> None:
    sink, _ = await send(here, headers=(JSON, (field, here.tenant.key.encode())))
    assert sink.status == 200


async def test_the_scheme_of_a_key_is_read_whatever_its_case(here: Installation) -> None:
    value = b"bEARER  " + here.tenant.key.encode() + b" "
    sink, _ = await send(here, headers=((b"authorization", value),))
    assert sink.status == 200


async def test_a_model_that_is_not_granted_looks_like_one_that_does_not_exist(
    here: Installation, server: ModelServer
) -> None:
    bodies = set()
    for name in ("hidden", "absent"):
        sink = await here.client.chat(name)
        assert (sink.status, error_of(sink)["code"]) == (404, "model_not_found")
        assert error_of(sink)["param"] == "model"
        text = sink.body.replace(sink.headers["x-request-id"].encode(), b"ID")
        bodies.add((text.replace(name.encode(), b"NAME"), *sorted(set(sink.headers))))
    assert len(bodies) == 1
    await assert_untouched(here, server)


async def test_a_model_serves_its_own_endpoint_only(
    here: Installation, server: ModelServer
) -> None:
    for sink in (await here.client.embed("m"), await here.client.chat("e")):
        error = error_of(sink)
        assert (sink.status, error["code"], error["param"]) == (400, "unsupported_model", "model")
    await assert_untouched(here, server)


@pytest.mark.parametrize(
    "kind", [b"text/plain", b"multipart/form-data; boundary=json", b"application/jsonl", b""]
)
async def test_another_content_type_is_refused_unread(
    here: Installation, server: ModelServer, kind: bytes
) -> None:
    key = (b"authorization", b"Bearer " + here.tenant.key.encode())
    sink, body = await send(here, headers=((b"content-type", kind), key))
    assert (sink.status, error_of(sink)["code"]) == (415, "unsupported_media_type")
    assert body.reads == 0
    await assert_untouched(here, server)


@pytest.mark.parametrize(
    ("coding", "status"), [(b"gzip", 415), (b"br, gzip", 415), (b"identity", 200), (b"", 200)]
)
async def test_a_compressed_body_is_refused_unread(
    here: Installation, coding: bytes, status: int
) -> None:
    key = (b"authorization", b"Bearer " + here.tenant.key.encode())
    sink, body = await send(here, headers=(JSON, key, (b"content-encoding", coding)))
    assert (sink.status, body.reads) == (status, int(status == 200))
    if status == 415:
        assert error_of(sink)["code"] == "unsupported_media_type"
        assert sink.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("PUT", "/v1/embeddings"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/m"),
    ],
)
async def test_a_wrong_method_is_405(
    here: Installation, server: ModelServer, method: str, path: str
) -> None:
    sink, body = await send(here, method=method, path=path)
    assert (sink.status, error_of(sink)["code"]) == (405, "method_not_allowed")
    assert sink.headers["allow"] == ("GET, HEAD" if "models" in path else "POST")
    assert body.reads == 0
    await assert_untouched(here, server)


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/modelsx", "/v1/chat/completions/", "/v2/models", "", "/v1/../x"]
)
async def test_a_path_that_is_none_is_404_even_without_a_key(
    here: Installation, server: ModelServer, path: str
) -> None:
    sink, body = await send(here, path=path, headers=())
    assert (sink.status, error_of(sink)["code"]) == (404, "not_found")
    assert body.reads == 0
    await assert_untouched(here, server)


async def test_a_body_beyond_the_cap_is_413(here: Installation, server: ModelServer) -> None:
    sink, _ = await send(here, b" " * 10_001)
    assert (sink.status, error_of(sink)["code"]) == (413, "request_too_large")
    await assert_untouched(here, server)


def chat(**fields: Any) -> bytes:
    document = {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    return msgspec.json.encode(document)


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"null", "invalid_json", None),
        (CHAT + b"x", "invalid_json", None),
        (b"\xef\xbb\xbf" + CHAT, "invalid_json", None),
        (b'{"model":"\xff"}', "invalid_json", None),
        (CHAT[:-1] + b',"x":NaN}', "invalid_json", None),
        (CHAT[:-1] + b',"x":' + b"[" * 3000 + b"]" * 3000 + b"}", "invalid_json", None),
        (b"[" * 5000, "invalid_json", None),
        (b"{}", "invalid_request", "model"),
        (b'{"model":7}', "invalid_request", "model"),
        (b'{"model":""}', "invalid_request", "model"),
        (b'{"model":null}', "invalid_request", "model"),
        (b'{"model":"m"}', "invalid_request", "messages"),
        (b'{"model":"m","messages":null}', "invalid_request", "messages"),
        (b'{"model":"m","messages":"x"}', "invalid_request", "messages"),
        (b'{"model":"m","messages":[ ]}', "invalid_request", "messages"),
        (chat(stream="yes"), "invalid_request", "stream"),
        (chat(stream=1), "invalid_request", "stream"),
        (chat(stream=True, stream_options=7), "invalid_request", "stream_options"),
        (
            chat(stream=True, stream_options={"include_usage": "x"}),
            "invalid_request",
            "stream_options.include_usage",
        ),
        (chat(max_tokens="7"), "invalid_request", "max_tokens"),
        (chat(max_tokens=-1), "invalid_request", "max_tokens"),
        (chat(max_tokens=1.5), "invalid_request", "max_tokens"),
        (chat(max_completion_tokens=-1), "invalid_request", "max_completion_tokens"),
        (chat(max_tokens=9999999), "request_exceeds_limit", None),
        (chat(max_tokens=2**53 - 1), "request_exceeds_limit", None),
        (chat(max_tokens=2**53), "invalid_request", "max_tokens"),
        (chat(max_tokens=10**40), "invalid_request", "max_tokens"),
        (chat(n=2**53), "invalid_request", "n"),
        (chat(n=0), "invalid_request", "n"),
        (chat(n=-1), "invalid_request", "n"),
        (chat(n="2"), "invalid_request", "n"),
    ],
)
async def test_a_malformed_request_is_400_and_names_the_field(
    here: Installation, server: ModelServer, data: bytes, code: str, param: str | None
) -> None:
    sink, _ = await send(here, data)
    error = error_of(sink)
    assert (sink.status, error["code"], error["param"]) == (400, code, param)
    assert error["type"] == "invalid_request_error"
    await assert_untouched(here, server)


@pytest.mark.parametrize("value", [b"null", b"7", b"{}", b"true", b"[ ]", b'""'])
async def test_an_input_that_is_none_is_400(
    here: Installation, server: ModelServer, value: bytes
) -> None:
    sink, _ = await send(here, b'{"model":"e","input":' + value + b"}", path="/v1/embeddings")
    assert (sink.status, error_of(sink)["param"]) == (400, "input")
    await assert_untouched(here, server)


@pytest.mark.parametrize("order", [(b"hidden", b"m"), (b"m", b"hidden"), (b"m", b"m")])
async def test_of_two_equal_keys_neither_is_believed(
    here: Installation, server: ModelServer, order: tuple[bytes, bytes]
) -> None:
    sink, _ = await send(here, b'{"model":"%b","messages":[1],"model":"%b"}' % order)
    assert (sink.status, error_of(sink)["param"]) == (400, "model")
    await assert_untouched(here, server)


async def test_fields_that_nobody_knows_survive_as_they_are(
    here: Installation, server: ModelServer
) -> None:
    sink, _ = await send(here, CHAT[:-1] + b',"temperature":1.0E+0,"new":{"a" : [0.10]}}')
    assert sink.status == 200
    assert b'"temperature":1.0E+0,"new":{"a" : [0.10]}' in server.requests[0].body


async def test_beyond_the_limit_of_requests_it_is_429_and_says_when(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]}, tenant={"key_limits": Limits(rpm=2)})
    replies = [await here.client.chat("m") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    refused = replies[2]
    assert error_of(refused)["code"] == "rate_limit_exceeded"
    assert error_of(refused)["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(await here.records()) == 2
    assert here.gateway.stats.refusals["rate_limit_exceeded"] == 1


@pytest.mark.parametrize("limits", [Limits(rpm=0), Limits(tpm=0), Limits(parallel=0)])
async def test_a_limit_of_nothing_is_a_prohibition(
    installed: Install, server: ModelServer, limits: Limits
) -> None:
    levels = (Level("organization", "o", models=("*",)), Level("key", "k", limits=limits))
    plugin = authenticator(Principal(levels, "o"), b"content-type")
    here = await installed({"m": [at(server)]}, plugins=[("sso", plugin)])
    reply = await here.client.chat("m")
    assert (reply.status, error_of(reply)["code"]) == (403, "permission_denied")
    assert "The limit of the key is 0 " in error_of(reply)["message"]
    assert (server.requests, await here.records()) == ([], [])


async def test_meters_are_on_every_reply_once_it_is_known_which_apply(
    here: Installation, server: ModelServer
) -> None:
    names = {
        f"x-ratelimit-{a}-{b}"
        for a in ("limit", "remaining", "reset")
        for b in ("requests", "tokens")
    }
    replies = [
        await here.client.chat("m"),
        await here.client.chat("m", stream=True),
        await here.client.embed("e"),
        await here.client.chat("m", max_tokens=10**6),
    ]
    server.status = 400
    replies.append(await here.client.chat("m"))
    server.status = 500
    replies.append(await here.client.chat("m"))
    assert [reply.status for reply in replies] == [200, 200, 200, 400, 400, 502]
    for reply in replies:
        assert names <= set(reply.headers)
        assert REQUEST_ID.fullmatch(reply.headers["x-request-id"])
    before = [await here.client.chat("absent"), await Client(here.gateway, None).chat("m")]
    assert not any(names & set(reply.headers) for reply in before)


async def test_ids_are_unique_and_go_upstream(here: Installation, server: ModelServer) -> None:
    replies = [await here.client.chat("m") for _ in range(5)]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(ids)) == 5
    assert [dict(request.headers)[b"x-request-id"].decode() for request in server.requests] == ids
    assert [record.call_id for record in await here.records()] == ids
