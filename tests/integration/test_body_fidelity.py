"""What a client sends reaches the upstream unchanged but for two fields, and nothing that the
upstream answers is changed on its way back. Bytes are compared, not what they mean."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.testing.model_server import completion

from .conftest import CHAT, UPSTREAM_NAME, composed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.testing.upstream import Upstream

    from .conftest import Answering, HttpReply, Server

MESSAGES = '[ {"role" : "user","content":"Hell\\u00f6 \\ud83d\\ude00 \\/ ö"} ]'
GOOD_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b"
FINISHED = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'

UNUSUAL = {
    "temperature": "1e2",
    "top_p": "0.10",
    "presence_penalty": "-0",
    "frequency_penalty": "1E+5",
    "seed": "123456789012345678901234567890",
    "x_float": "0.1000000000000000055511151231257827021181583404541015625",
    "x_tiny": "-1.50e-400",
    "user": "null",
    "x_false": "false",
    "logprobs": "true",
    "": '{"":[[],{},"",null,{"":{"":0.0}}]}',
    "x_escapes": r'"\u0000\u001f\"\\\/\b\f\n\r\t\u00E9\u00e9\ud83d\ude00\uD83D\uDE00"',
    "x_raw": '"é 😀 \u2028 \u007f \ufeff"',
    "x_space": '{ "a" :\t[ 1 ,\r\n 2 ] , "b":{ } }',
    "x_twice": '{"a":1,"a":2,"b":{"c":[],"c":{}},"a":1.0}',
    "tools": '[{"type":"function","function":{"name":"f","parameters":'
    '{"type":"object","properties":{"b":{"minimum":-0.0,"maximum":1e400},"a":{}},'
    '"required":[]},"strict":null}}]',
    "tool_choice": '{"type":"function","function":{"name":"f"}}',
    "response_format": '{"type":"json_schema","json_schema":{"name":"s","schema":'
    '{"$ref":"#/$defs/a","$defs":{"a":{"const":1.00}}}}}',
    "logit_bias": '{"50256":-100,"42":1E2}',
    "audio": '{"voice":"alloy","format":"wav"}',
    "modalities": '["text","audio"]',
    "metadata": '{"z":"1","a":"2","model":"not-this","stream_options":null}',
    "store": "false",
    "stop": '["\\n\\n", "]}"]',
    "x_model": '"model"',
    'quoted "key" \\ \t é 😀': '"the key is re-encoded, its meaning stays"',
}
"""Values that a decoder and encoder of JSON would change, as text."""


def expected(fields: Iterable[tuple[str, str]], **changed: str) -> bytes:
    """The same object with the values of `changed` replaced, or added at the end."""
    values = dict(fields) | {"model": json.dumps(UPSTREAM_NAME, ensure_ascii=False)} | changed
    return composed(values.items())


def exact(data: bytes) -> Any:
    """What JSON means, and more: order and repetition of keys, every digit of a number."""

    def number(text: str) -> tuple[str, str]:
        return ("number", text)

    return json.loads(data, parse_float=number, parse_int=number, object_pairs_hook=tuple)


def chat_fields(**fields: str) -> list[tuple[str, str]]:
    return list(({"model": '"m"', "messages": MESSAGES} | fields).items())


async def test_an_unusual_field_reaches_the_upstream_as_it_is(
    proxy: Server, upstream: Upstream
) -> None:
    connection = await proxy.connect()
    for field in UNUSUAL.items():
        for fields in ([field, *chat_fields()], [*chat_fields(), field]):
            body = composed(fields, space=" \r\n\t")
            reply = await proxy.post(CHAT, body, on=connection)
            assert reply.status == 200, reply.body
            assert upstream.requests[-1].body == expected(fields)


async def test_all_unusual_fields_together_keep_their_order(
    proxy: Server, upstream: Upstream
) -> None:
    fields = [*UNUSUAL.items(), *chat_fields()]
    for order in (fields, fields[::-1]):
        assert (await proxy.post(CHAT, composed(order))).status == 200
        assert upstream.requests[-1].body == expected(order)
        changed = [(k, UPSTREAM_NAME if k == "model" else v) for k, v in exact(composed(order))]
        assert exact(upstream.requests[-1].body) == tuple(changed)


ASKING = '{"include_usage":true}'


@pytest.mark.parametrize(
    ("options", "sent_on"),
    [
        (None, ASKING),
        ("null", ASKING),
        ("{ }", ASKING),
        (
            '{"x_a" : 1e2, "include_usage": false, "x_b": {"a":1,"a":0.10}}',
            '{"x_a":1e2,"include_usage":true,"x_b":{"a":1,"a":0.10}}',
        ),
        (
            '{"include_usage":null,"include_obfuscation":false}',
            '{"include_usage":true,"include_obfuscation":false}',
        ),
        ('{ "x":[ 1 ], "include_usage" : true }', '{ "x":[ 1 ], "include_usage" : true }'),
    ],
)
async def test_on_streams_only_the_wish_for_usage_is_added(
    proxy: Server, upstream: Upstream, answering: Answering, options: str | None, sent_on: str
) -> None:
    stream = FINISHED + b"data: [DONE]\n\n"
    answering.pieces = (GOOD_STREAM % (len(stream), stream),)
    fields = [("x_first", "1E+5"), ("stream", "true"), *chat_fields(), ("x_last", "-0")]
    if options is not None:
        fields.insert(1, ("stream_options", options))
    assert (await proxy.post(CHAT, composed(fields))).status == 200
    assert upstream.requests[-1].body == expected(fields, stream_options=sent_on)


async def test_stream_options_of_a_call_that_does_not_stream_are_not_touched(
    proxy: Server, upstream: Upstream
) -> None:
    for stream in ("false", "null"):
        fields = [("stream_options", '{"include_usage" : 0.0}'), *chat_fields(stream=stream)]
        assert (await proxy.post(CHAT, composed(fields))).status == 200
        assert upstream.requests[-1].body == expected(fields)


INPUTS = ('"\\u00e9 é"', '[ "a" , "b" ]', "[1, 2 ,3]", "[[1,2],[3]]", '["\\ud83d\\ude00"]')


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/embedding"])
async def test_embedding_requests_reach_the_upstream_as_they_are(
    proxy: Server, upstream: Upstream, answering: Answering, path: str
) -> None:
    answer = (
        b'{ "data" : [ { "embedding" : "AAAA" , "x":1E2 } ] , "usage":{"prompt_tokens":3.0} }\n'
    )
    answering.document(answer)
    for value in INPUTS:
        fields = [("x", "{}"), ("input", value), ("model", '"e"'), ("encoding_format", '"base64"')]
        fields += UNUSUAL.items()
        reply = await proxy.post(path, composed(fields))
        assert (reply.status, reply.body) == (200, answer)
        assert upstream.requests[-1].body == expected(fields)
        assert upstream.requests[-1].target == "/v1/embeddings"


@pytest.mark.parametrize("repeated", ["model", "x"])
async def test_a_repeated_field_is_refused_because_an_upstream_may_see_the_other_value(
    proxy: Server, upstream: Upstream, repeated: str
) -> None:
    body = b'{"model":"m","messages":%b,"x":1,"%b":"m"}' % (MESSAGES.encode(), repeated.encode())
    reply = await proxy.post(CHAT, body)
    assert (reply.status, reply.json()["error"]["param"]) == (400, repeated)
    assert upstream.requests == []


@pytest.mark.parametrize("text", [r'"\ud83d"', r'"\ude00 text"', r'"\ud83d\ud83d\ude00"'])
async def test_half_a_surrogate_pair_is_refused_or_kept_but_never_replaced(
    proxy: Server, upstream: Upstream, text: str
) -> None:
    fields = chat_fields(x_half=text)
    reply = await proxy.post(CHAT, composed(fields))
    if reply.status == 200:
        assert upstream.requests[-1].body == expected(fields)
    else:
        assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_json")
        assert upstream.requests == []


# ---------------------------------------------------------------------- random bodies

SPACES = st.text(" \t\r\n", max_size=2)
PIECES = st.one_of(
    st.characters(codec="utf-8", exclude_characters='"\\', min_codepoint=0x20),
    st.sampled_from([r"\"", r"\\", r"\/", r"\n", r"\u0000", r"\u00E9", r"\ud83d\ude00", "é", "😀"]),
)
STRINGS = st.lists(PIECES, max_size=6).map(lambda parts: f'"{"".join(parts)}"')
NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
SCALARS = st.one_of(STRINGS, NUMBERS, st.sampled_from(["null", "true", "false", "[]", "{ }"]))


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.tuples(SPACES, inner, SPACES).map("".join)
    pairs = st.tuples(SPACES, STRINGS, SPACES, st.just(":"), items).map("".join)
    return st.one_of(
        st.lists(items, max_size=4).map(lambda parts: f"[{','.join(parts)}]"),
        st.lists(pairs, max_size=4).map(lambda parts: f"{{{','.join(parts)}}}"),
    )


VALUES = st.recursive(SCALARS, _containers, max_leaves=12)
MEANINGFUL = {"model", "messages", "stream", "stream_options", "n", "max_tokens"}
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(list(UNUSUAL))).filter(
    lambda name: name not in MEANINGFUL and name.isprintable()
)
BODIES = st.tuples(
    st.dictionaries(KEYS, VALUES, max_size=6),
    st.booleans(),
    st.randoms(use_true_random=False),
    SPACES,
)


async def test_random_bodies_reach_the_upstream_as_they_are(
    proxy: Server, upstream: Upstream, answering: Answering
) -> None:
    loop = asyncio.get_running_loop()
    connection = await proxy.connect()
    stream = FINISHED + b"data: [DONE]\n\n"
    document = json.dumps(completion()).encode()

    async def exchange(fields: list[tuple[str, str]], space: str, streamed: bool) -> None:
        if streamed:
            answering.pieces = (GOOD_STREAM % (len(stream), stream),)
        else:
            answering.document(document)
        reply = await proxy.post(CHAT, composed(fields, space), on=connection)
        assert reply.status == 200, reply.body
        changed = {"stream_options": ASKING} if streamed else {}
        assert upstream.requests[-1].body == expected(fields, **changed)

    @settings(max_examples=150, deadline=None)
    @given(BODIES)
    def check(body: tuple[dict[str, str], bool, Any, str]) -> None:
        extra, streamed, random, space = body
        fields = [*extra.items(), *chat_fields()] + [("stream", "true")] * streamed
        random.shuffle(fields)
        asyncio.run_coroutine_threadsafe(exchange(fields, space, streamed), loop).result(20)

    await asyncio.to_thread(check)


# ---------------------------------------------------------------------- headers

SECRET = b"s3cret-of-the-client"
PRIVATE = tuple(
    (name, SECRET)
    for name in (
        b"cookie",
        b"x-api-key",
        b"api-key",
        b"proxy-authorization",
        b"openai-organization",
        b"openai-project",
        b"anthropic-version",
        b"x-forwarded-for",
        b"x-real-ip",
        b"forwarded",
        b"via",
        b"x-request-id",
        b"x-stainless-lang",
        b"x-custom",
        b"user-agent",
        b"referer",
        b"origin",
        b"idempotency-key",
        b"baggage",
        b"tracestate",
        b"accept-language",
    )
)


async def test_no_header_of_the_client_reaches_the_upstream(
    proxy: Server, upstream: Upstream
) -> None:
    body = composed(chat_fields())
    reply = await proxy.post(CHAT, body, *PRIVATE, (b"accept-encoding", b"gzip, br"))
    assert reply.status == 200
    [request] = upstream.requests
    assert {name for name, _ in request.headers} == {
        b"host",
        b"accept-encoding",
        b"authorization",
        b"content-length",
        b"content-type",
        b"traceparent",
        b"user-agent",
        b"x-request-id",
    }
    assert len(request.headers) == 8
    assert request.header(b"authorization") == b"Bearer upstream-secret"
    assert request.header(b"accept-encoding") == b"identity"
    assert request.header(b"x-request-id") == reply.header(b"x-request-id")
    assert SECRET not in request.head
    assert proxy.key.encode() not in request.head + request.body


ACCOUNT = tuple(
    (name, b"of-the-account")
    for name in (
        b"set-cookie",
        b"openai-organization",
        b"openai-processing-ms",
        b"openai-version",
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
        b"anthropic-ratelimit-requests-limit",
        b"anthropic-organization-id",
        b"x-request-id",
        b"cf-ray",
        b"cf-cache-status",
        b"www-authenticate",
        b"server",
        b"via",
        b"alt-svc",
        b"strict-transport-security",
        b"x-envoy-upstream-service-time",
        b"x-custom",
    )
)
OURS = {
    b"content-type",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"cache-control",
    b"x-accel-buffering",
    b"x-request-id",
    b"x-should-retry",
    b"retry-after",
}


TOLD = {200: 200, 400: 400, 401: 502, 429: 429, 500: 502, 503: 503}


async def test_no_header_of_the_upstream_reaches_the_client(
    proxy: Server, answering: Answering
) -> None:
    for status, told in TOLD.items():
        answering.document(json.dumps(completion()).encode(), *ACCOUNT, status=status)
        reply = await proxy.post(CHAT, composed(chat_fields()))
        assert reply.status == told
        assert_only_own_headers(reply)


async def test_no_header_of_a_streaming_upstream_reaches_the_client(
    proxy: Server, answering: Answering
) -> None:
    stream = FINISHED + b"data: [DONE]\n\n"
    kind = b"text/event-stream; x=of-the-account"
    answering.document(stream, *ACCOUNT, kind=kind)
    reply = await proxy.post(CHAT, composed(chat_fields(stream="true")))
    assert (reply.status, reply.body) == (200, stream)
    assert_only_own_headers(reply)


def assert_only_own_headers(reply: HttpReply) -> None:
    assert {name for name, _ in reply.headers} <= OURS
    assert not [name for name, value in reply.headers if b"of-the-account" in value]
    assert len(dict(reply.headers)) == len(reply.headers)
