from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.backends.canonical import CanonicalSession
from llmgw_core.domain.call import Call, Endpoint, Head
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.failure import FailureKind, UpstreamFailure
from llmgw_core.domain.usage import Usage
from llmgw_core.wire.request import RequestView

if TYPE_CHECKING:
    from llmgw_core.domain.call import Headers

CHAT = {"model": "public", "messages": [{"role": "user", "content": "Hi"}]}
JSON = [(b"content-type", b"application/json")]


def session(
    body: dict[str, Any] | None = None,
    *,
    endpoint: Endpoint = "chat.completions",
    credential: str = "secret",
    **options: Any,
) -> CanonicalSession:
    call = Call("req_1", endpoint, Head("POST", "/", ()), 0.0, 0)
    call.trace_id, call.span_id = "a" * 32, "b" * 16
    fields = {
        name: msgspec.Raw(msgspec.json.encode(value)) for name, value in (body or CHAT).items()
    }
    call.request = RequestView(fields, endpoint)
    deployment = Deployment("public/a", "public", "canonical", "onprem", "upstream")
    return CanonicalSession(call, deployment, credential, **options)


def failure(found: CanonicalSession, body: bytes) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        found.reply(200, JSON, body)
    return caught.value


def test_one_post_carries_the_upstreams_model_name_the_credential_and_the_calls_ids() -> None:
    [request] = session({**CHAT, "extra": [1, None]}).requests()
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert dict((*request.common, *request.headers)) == {
        b"content-type": b"application/json",
        b"user-agent": b"llmgw",
        b"authorization": b"Bearer secret",
        b"x-request-id": b"req_1",
        b"traceparent": b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    }
    assert msgspec.json.decode(request.body) == {**CHAT, "model": "upstream", "extra": [1, None]}


def test_prefix_and_headers_are_the_backends_choice() -> None:
    extra = ((b"api-key", b"k"),)
    [request] = session(
        {"model": "m", "input": "x"},
        endpoint="embeddings",
        credential="",
        path_prefix="/openai/v9",
        extra_headers=extra,
    ).requests()
    assert request.target == "/openai/v9/embeddings"
    assert (b"api-key", b"k") in request.common
    assert b"authorization" not in dict(request.common)


def test_a_complete_reply_is_passed_on_as_it_is() -> None:
    usage = b'{"prompt_tokens":3,"completion_tokens":1}'
    body = b' {"choices" : [{"message":{"content":"x"}}],"usage":' + usage + b"}\n"
    reply = session().reply(200, JSON, body)
    assert (reply.body, reply.usage) == (body, Usage(3, 1))


def test_without_usage_the_text_of_all_choices_is_measured() -> None:
    choice = {"message": {"role": "assistant", "content": "äb", "refusal": None}}
    tool = {"message": {"tool_calls": [{"id": "call_1", "function": {"arguments": "xyz"}}]}}
    reply = session().reply(200, JSON, msgspec.json.encode({"choices": [choice, tool]}))
    assert (reply.usage, reply.output_bytes) == (None, 3 + 3)


def test_embeddings_without_usage_have_no_output() -> None:
    found = session({"model": "m", "input": "x"}, endpoint="embeddings")
    reply = found.reply(200, JSON, b'{"data":[]}')
    assert (reply.usage, reply.output_bytes) == (None, 0)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "protocol"),
        (b"", "protocol"),
        (b"[" * 100_000, "protocol"),
        (b"[]", "protocol"),
        (b"{}", "protocol"),
        (b'{"data":[]}', "protocol"),
        (b'{"choices":null}', "protocol"),
        (b'{"choices":[7]}', "protocol"),
        (b'{"choices":[{"message":"text"}]}', "protocol"),
        (b'{"choices":[{"message":{"content":"\xff"}}],"usage":{"prompt_tokens":1}}', "protocol"),
        (b'{"error":{"message":"no"}}', "server"),
        (b'{"error":"no","choices":[]}', "server"),
    ],
)
def test_a_reply_of_another_shape_is_a_failure(body: bytes, kind: FailureKind) -> None:
    assert failure(session(), body).kind == kind


def test_an_embedding_without_data_is_a_failure() -> None:
    found = session({"model": "m", "input": "x"}, endpoint="embeddings")
    assert failure(found, b'{"choices":[]}').kind == "protocol"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b"{}", "client"),
        (404, b'{"error":{}}', "client"),
        (413, b"{}", "client"),
        (422, b"{}", "client"),
        (400, b"<html>", "protocol"),
        (404, b"[]", "protocol"),
        (302, b"{}", "protocol"),
        (401, b"{}", "credentials"),
        (402, b"{}", "credentials"),
        (403, b"<html>", "credentials"),
        (408, b"{}", "timeout"),
        (429, b"{}", "rate_limited"),
        (500, b"{}", "server"),
        (502, b"<html>", "server"),
        (503, b"", "overloaded"),
        (504, b"", "timeout"),
        (529, b"", "overloaded"),
    ],
)
def test_error_statuses_are_classified(status: int, body: bytes, kind: FailureKind) -> None:
    error = session().error(status, JSON, body)
    assert (error.kind, error.status, error.body) == (kind, status, body)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"retry-after", b"Wed, 21 Oct 2015 07:28:00 GMT")], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"9" * 10)], None),
        ([], None),
    ],
)
def test_retry_after_is_read_in_seconds(headers: Headers, seconds: float | None) -> None:
    assert session().error(429, headers, b"{}").retry_after == seconds


def test_the_content_type_decides_how_a_stream_is_read() -> None:
    found = session({**CHAT, "stream": True})
    assert found.stream(200, [(b"x", b"y"), (b"content-type", b"text/event-stream; a=b")])
    assert found.stream(200, [])
    assert found.stream(200, [(b"content-type", b"Application/JSON; charset=utf-8")]) is None
    with pytest.raises(UpstreamFailure) as caught:
        found.stream(200, [(b"content-type", b"text/html")])
    assert caught.value.kind == "protocol"
