"""What is in the body: 400 that names the field, 408, 413 and 415. Nothing reaches an upstream."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import BODY_CAP, BODY_SECONDS

if TYPE_CHECKING:
    from .conftest import World

CHAT = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
EMBED = b'{"model":"e","input":"x"}'
EMBEDDINGS = "/v1/embeddings"

MALFORMED = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "half an object": CHAT[:-1],
    "half a string": CHAT[:12],
    "text behind": CHAT + b"x",
    "two objects": CHAT + CHAT,
    "a list": b"[" + CHAT + b"]",
    "null": b"null",
    "a string": b'"model"',
    "a number": b"7",
    "a form": b"model=m&messages=x",
    "HTML": b"<html></html>",
    "single quotes": CHAT.replace(b'"', b"'"),
    "a trailing comma": CHAT[:-1] + b",}",
    "a comment": CHAT[:-1] + b"/* */}",
    "a byte order mark": b"\xef\xbb\xbf" + CHAT,
    "UTF-16": CHAT.decode().encode("utf-16"),
    "UTF-32": CHAT.decode().encode("utf-32-le"),
    "Latin-1": b'{"model":"m","messages":["\xe4"]}',
    "overlong UTF-8": b'{"model":"m","messages":["\xc0\xaf"]}',
    "a surrogate in UTF-8": b'{"model":"m","messages":["\xed\xa0\x80"]}',
    "a lone surrogate": b'{"model":"m","messages":["\\ud800"]}',
    "a lone surrogate as key": b'{"model":"m","messages":[1],"\\ud800":1}',
    "half a surrogate pair": b'{"model":"m","messages":["\\ud83d\\u0041"]}',
    "an escape that is none": b'{"model":"m","messages":["\\x41"]}',
    "a NUL byte in a string": b'{"model":"m","messages":["\x00"]}',
    "a NUL byte between": CHAT[:1] + b"\x00" + CHAT[1:],
    "a NUL byte behind": CHAT + b"\x00",
    "a line end in a string": b'{"model":"m","messages":["\n"]}',
    "NaN": CHAT[:-1] + b',"x":NaN}',
    "Infinity": CHAT[:-1] + b',"x":-Infinity}',
    "a leading zero": CHAT[:-1] + b',"x":01}',
    "a number without end": CHAT[:-1] + b',"x":1e}',
    "hexadecimal": CHAT[:-1] + b',"x":0x10}',
    "depth, never closed": b"[" * 15_000,
    "depth, closed": CHAT[:-1] + b',"x":' + b"[" * 7000 + b"]" * 7000 + b"}",
    "deep objects": CHAT[:-1] + b',"x":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
    "deep messages": b'{"model":"m","messages":' + b"[" * 7000 + b"]" * 7000 + b"}",
}

TWICE = {
    "model": b'{"model":"hidden","messages":[1],"model":"m"}',
    "messages": b'{"model":"m","messages":[1],"messages":[2]}',
    "stream": CHAT[:-1] + b', "stream": true, "stream": false}',
    "max_tokens": CHAT[:-1] + b',"max_tokens":1,"max_tokens":100000}',
    "user": CHAT[:-1] + b',"user":"a",\n\t"us\\u0065r":"b"}',
}

STRING, NUMBER, LIST, OBJECT = '"x"', "7", '["x"]', '{"x":1}'
WRONG: dict[str, list[str]] = {
    "model": ["null", NUMBER, LIST, OBJECT, "true", '""', "1e999"],
    "messages": ["null", STRING, NUMBER, OBJECT, "true", "[]", "[ \n]", '""'],
    "stream": [STRING, NUMBER, LIST, OBJECT, "0", '"true"'],
    "max_tokens": [STRING, LIST, OBJECT, "true", "1.5", "1e3", "-1", "9" * 40, "1e999"],
    "max_completion_tokens": [STRING, LIST, OBJECT, "true", "1.5", "-7", "9" * 5000],
    "n": [STRING, LIST, OBJECT, "true", "0", "-1", "2.0", "9" * 17],
    "input": ["null", NUMBER, OBJECT, "true", '""', "[]", "[ ]"],
}
ROWS = [(field, value) for field, values in WRONG.items() for value in values]

UNREAD = [
    ("chat", "temperature", STRING),
    ("chat", "user", OBJECT),
    ("chat", "seed", "9" * 400),
    ("chat", "top_p", "1e999"),
    ("chat", "logit_bias", "null"),
    ("chat", "stream_options", NUMBER),
    ("embeddings", "encoding_format", LIST),
    ("embeddings", "dimensions", STRING),
    ("embeddings", "user", NUMBER),
    ("embeddings", "stream", STRING),
]


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_json_object_is_400(world: World, kind: str, what: str) -> None:
    answer = world.exchange(kind, world.request(MALFORMED[what]), 400, "invalid_json", ends=False)
    assert len(answer.body) < 400, "the client's own text is not repeated"


@pytest.mark.parametrize("field", TWICE)
def test_a_field_given_twice_is_400(world: World, kind: str, field: str) -> None:
    world.exchange(kind, world.request(TWICE[field]), 400, "invalid_request", field, ends=False)


@pytest.mark.parametrize(("field", "value"), ROWS, ids=[f"{f}={v[:20]}" for f, v in ROWS])
def test_a_field_of_the_wrong_type_is_400_and_named(
    world: World, kind: str, field: str, value: str
) -> None:
    embed = field == "input"
    fields = json.loads(EMBED if embed else CHAT)
    fields.pop(field, None)
    body = json.dumps(fields)[:-1] + f',"{field}":{value}}}'
    request = world.request(body.encode(), path=EMBEDDINGS if embed else "/v1/chat/completions")
    answer = world.exchange(kind, request, 400, "invalid_request", field, ends=False)
    assert field in answer.error["message"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (STRING, "stream_options"),
        (NUMBER, "stream_options"),
        (LIST, "stream_options"),
        ("true", "stream_options"),
        ('{"include_usage":"x"}', "stream_options.include_usage"),
        ('{"include_usage":7}', "stream_options.include_usage"),
        ('{"include_usage":{}}', "stream_options.include_usage"),
    ],
)
def test_options_of_a_stream_are_read(world: World, kind: str, options: str, param: str) -> None:
    body = CHAT[:-1] + f',"stream":true,"stream_options":{options}}}'.encode()
    world.exchange(kind, world.request(body), 400, "invalid_request", param, ends=False)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", b"{}", "model"),
        ("/v1/chat/completions", b'{"messages":[1]}', "model"),
        ("/v1/chat/completions", b'{"model":"m"}', "messages"),
        ("/v1/chat/completions", b'{"model":"m","prompt":"x"}', "messages"),
        (EMBEDDINGS, b'{"input":"x"}', "model"),
        (EMBEDDINGS, b'{"model":"e"}', "input"),
    ],
)
def test_what_is_missing_is_named(
    world: World, kind: str, path: str, body: bytes, param: str
) -> None:
    world.exchange(kind, world.request(body, path=path), 400, "invalid_request", param, ends=False)


def test_more_than_a_whole_limit_is_400(world: World, kind: str) -> None:
    body = CHAT[:-1] + b',"max_tokens":999999999}'
    world.exchange(kind, world.request(body), 400, "request_exceeds_limit", ends=False)


@pytest.mark.parametrize(("path", "field", "value"), UNREAD)
def test_what_nobody_reads_is_the_upstreams_business(
    world: World, kind: str, path: str, field: str, value: str
) -> None:
    """It arrives as it was written, whatever it is."""
    embed = path == "embeddings"
    body = (EMBED if embed else CHAT)[:-1] + f',"{field}":{value}}}'.encode()
    before = len(world.upstream.requests)
    with world.wire(kind) as wire:
        wire.send(world.request(body, path=EMBEDDINGS if embed else "/v1/chat/completions"))
        assert wire.answer().status == (502 if embed else 200)  # the upstream only chats
    [sent] = world.upstream.requests[before:]
    assert f'"{field}":{value}'.encode() in sent.body
    world.calm()


@pytest.mark.parametrize("length", [BODY_CAP + 1, 10**9, 2**63 - 1])
def test_a_body_over_the_cap_is_413_before_it_comes(world: World, kind: str, length: int) -> None:
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(world.request(b"{", length=str(length)))
        answer = wire.answer()
        assert (answer.header("connection") == "close") == (length > 65536)
    world.envelope(answer, 413, "request_too_large", None)
    assert str(BODY_CAP) in answer.error["message"]
    world.aftermath(kind, answer, 0)


@pytest.mark.parametrize("size", [1000, BODY_CAP + 1])
def test_a_chunked_body_over_the_cap_is_413_when_it_is_over(
    world: World, kind: str, size: int
) -> None:
    world.new_rows()
    chunk = b"%x\r\n%b\r\n" % (size, b" " * size)
    headers = ("content-type: application/json", "transfer-encoding: chunked")
    with world.wire(kind) as wire:
        wire.send(world.request(b"", headers=headers, length=None))
        for _ in range(BODY_CAP // size + 1):
            wire.send(chunk)
        answer = wire.answer()
    world.envelope(answer, 413, "request_too_large", None)
    world.aftermath(kind, answer, 0)


@pytest.mark.parametrize("head", ["content-length: 100", "transfer-encoding: chunked"])
@pytest.mark.parametrize("body", ["", "half"])
def test_a_body_that_never_ends_is_408(world: World, kind: str, head: str, body: str) -> None:
    """However long it is held open: within the deadline and the precision of the sweep."""
    world.new_rows()
    began = time.monotonic()
    part = {"": b"", "half": b"5\r\n{" if "chunked" in head else b'{"model"'}[body]
    with world.wire(kind) as wire:
        wire.send(world.request(b"", headers=("content-type: application/json", head), length=None))
        wire.send(part)
        answer = wire.answer()
        assert BODY_SECONDS <= time.monotonic() - began < BODY_SECONDS + 3
        assert answer.header("connection") == "close"
        assert answer.header("x-should-retry") == "true"
    world.envelope(answer, 408, "request_timeout", None)
    world.aftermath(kind, answer, 0)


def test_a_body_that_dribbles_is_408_too(world: World, kind: str) -> None:
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(world.request(b"", length="1000"))
        wire.socket.settimeout(0.02)
        answer = None
        for _ in range(200):
            wire.send(b" ")
            try:
                wire.more()
            except TimeoutError:
                continue
            wire.socket.settimeout(10)
            answer = wire.answer()
            break
    assert answer is not None
    world.envelope(answer, 408, "request_timeout", None)
    world.aftermath(kind, answer, 0)


@pytest.mark.parametrize(
    "name",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=json",
        "application/xml",
        "application/jsonl",
        "json, text/plain",
        "*/*",
        "",
    ],
)
def test_another_content_type_is_415(world: World, kind: str, name: str) -> None:
    request = world.request(CHAT, headers=(f"content-type: {name}",))
    world.exchange(kind, request, 415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "zstd", "deflate", "identity, gzip", "x"])
def test_a_compressed_body_is_415(world: World, kind: str, coding: str) -> None:
    headers = ("content-type: application/json", f"content-encoding: {coding}")
    answer = world.exchange(
        kind, world.request(CHAT, headers=headers), 415, "unsupported_media_type"
    )
    assert answer.header("accept-encoding") == "identity"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("content-type: application/json; charset=utf-8",),
        ("content-type: APPLICATION/JSON ",),
        ("content-type: application/vnd.x+json",),
        ("content-type: application/json", "content-encoding: identity "),
    ],
)
def test_what_is_json_by_any_name_is_taken(world: World, kind: str, headers: Any) -> None:
    with world.wire(kind) as wire:
        wire.send(world.request(CHAT, headers=headers))
        assert wire.answer().status == 200
    world.calm()
