"""Replies with status 200 that are none: on streams and complete replies, before any content and
after it. Before it nobody sees them while there is a sibling; after it the end is truthful."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.deployment import Timeouts
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import (
    DONE,
    JSON,
    ROLE,
    SSE,
    STOP,
    WORD,
    chat_chunk,
    chat_events,
    completion,
    event,
    usage_object,
)
from llmgw_core.testing.stream_filters import Gate, Hold, Pass, filtering, judging, streaming
from llmgw_core.testing.upstream import http_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmgw_core.testing.client import MemorySink
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Peer, Script, Scripted

Cases = dict[str, tuple[bytes, tuple[tuple[bytes, bytes], ...], str]]
"""Body and headers of a reply, and the outcome of the attempt."""
WHOLE = msgspec.json.encode(completion("Hello"))
HTML = ((b"content-type", b"text/html"),)
GZIP = (b"content-encoding", b"gzip")
ERROR = b'{"error":{"message":"pw-of-the-upstream","code":503}}'
VLLM_ERROR = b'{"object":"error","message":"pw-of-the-upstream","code":500}'
USAGE = event({"choices": [], "usage": usage_object()})

DOCUMENTS: Cases = {
    "an error object": (ERROR, JSON, "server"),
    "an error in another form": (VLLM_ERROR, JSON, "protocol"),
    "HTML": (b"<html><body>pw-of-the-upstream", HTML, "protocol"),
    "HTML that calls itself JSON": (b"<html>pw-of-the-upstream", JSON, "protocol"),
    "nothing": (b"", JSON, "protocol"),
    "no JSON object": (b'["pw-of-the-upstream"]', JSON, "protocol"),
    "truncated JSON": (WHOLE[:-1], JSON, "protocol"),
    "half of the JSON": (WHOLE[: len(WHOLE) // 2], JSON, "protocol"),
    "broken UTF-8 in the text": (WHOLE.replace(b"Hello", b"\xff\xfe"), JSON, "protocol"),
    "broken UTF-8 in another field": (WHOLE.replace(b"upstream-name", b"\xc3"), JSON, "protocol"),
    "compressed": (gzip.compress(WHOLE), (*JSON, GZIP), "protocol"),
    "compressed in secret": (gzip.compress(WHOLE), JSON, "protocol"),
}
STREAMS: Cases = {
    "HTML": (b"<html>pw-of-the-upstream\n\n", HTML, "protocol"),
    "HTML that calls itself a stream": (b"<html>\n\npw-of-the-upstream\n\n", SSE, "cut"),
    "an error object without its event": (ERROR, SSE, "cut"),
    "nothing": (b"", SSE, "cut"),
    "plain text": (b"".join(chat_events()), ((b"content-type", b"text/plain"),), "protocol"),
    "compressed": (gzip.compress(b"".join(chat_events())), (*SSE, GZIP), "protocol"),
    "compressed in secret": (gzip.compress(b"".join(chat_events())), SSE, "cut"),
    "an error event": (event({"error": {"message": "pw-of-the-upstream"}}), SSE, "server"),
    "an error event of an older kind": (b"data: " + VLLM_ERROR + b"\n\n", SSE, "server"),
    "a named error event": (b"event: error\ndata: pw-of-the-upstream\n\n", SSE, "server"),
    "an error event behind a role": (ROLE + b"data: " + ERROR + b"\n\n", SSE, "server"),
    "half of an event": (ROLE + WORD[:-9], SSE, "cut"),
    "truncated JSON in an event": (ROLE + WORD[:-9] + b"\n\n", SSE, "protocol"),
    "broken UTF-8": (ROLE + WORD.replace(b"Hello", b"\xff"), SSE, "protocol"),
    "roles only": (ROLE + ROLE, SSE, "cut"),
}


def sending(body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> Script:
    """An upstream that answers each request with `body` in one piece."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(http_reply(200, body, headers))

    return script


async def answers(
    installed: Install, scripted: Scripted, server: ModelServer, cases: Cases, *, stream: bool
) -> AsyncIterator[tuple[str, bool, MemorySink, Any]]:
    """A call for each of `cases`, of a deployment that is alone and of one with a good sibling:
    the case, whether it was alone, what the client got, and the record."""
    models = {}
    for name, (body, headers, _) in cases.items():
        bad = at(await scripted(sending(body, headers)), "bad", weight=9)
        models[f"{name}, alone"] = [bad]
        models[f"{name}, with a sibling"] = [bad, at(server, "good")]
    here = await installed(models)
    replies = {model: await here.client.chat(model, stream=stream) for model in models}
    for record in await here.records():
        name, _, company = record.model.rpartition(", ")
        yield name, company == "alone", replies.pop(record.model), record
    assert not replies


def check(reply: MemorySink, record: Any, outcome: str, *, alone: bool) -> None:
    assert b"pw-of-the-upstream" not in reply.body
    bad = [each for each in record.attempts if each.deployment.endswith("/bad")]
    assert {each.outcome for each in bad} == {outcome}
    if alone:
        assert (reply.status, record.status, record.http_status) == (502, "failed", 502)
        assert reply.json()["error"]["code"] == "upstream_error"
    else:
        assert (reply.status, record.status) == (200, "completed")
        assert record.deployment.endswith("/good")


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
async def test_documents_that_are_no_replies(
    installed: Install, scripted: Scripted, server: ModelServer, *, stream: bool
) -> None:
    async for name, alone, reply, record in answers(
        installed, scripted, server, DOCUMENTS, stream=stream
    ):
        check(reply, record, DOCUMENTS[name][2], alone=alone)


async def test_streams_that_are_none(
    installed: Install, scripted: Scripted, server: ModelServer
) -> None:
    *events, _, end = server.events
    async for name, alone, reply, record in answers(
        installed, scripted, server, STREAMS, stream=True
    ):
        check(reply, record, STREAMS[name][2], alone=alone)
        if not alone:
            assert reply.body == b"".join(events) + end


@pytest.mark.parametrize("stream", [False, True])
async def test_whatever_a_reply_is_compressed_with_it_goes_to_nobody(
    installed: Install, scripted: Scripted, server: ModelServer, *, stream: bool
) -> None:
    kind = SSE if stream else JSON
    cases: Cases = {
        coding.decode(): (b"\x1f\x8b\x08\x00pw", (*kind, (b"content-encoding", coding)), "protocol")
        for coding in (b"br", b"zstd", b"gzip, br", b"GZIP")
    }
    async for name, alone, reply, record in answers(
        installed, scripted, server, cases, stream=stream
    ):
        check(reply, record, cases[name][2], alone=alone)


async def test_a_coding_that_is_none_is_no_compression(
    installed: Install, scripted: Scripted
) -> None:
    same = (b"content-encoding", b"Identity")
    script = sending(b"".join(chat_events()), (*SSE, same))
    here = await installed({"m": [at(await scripted(script))]})
    assert (await here.client.chat("m", stream=True)).body.endswith(DONE)


BROKEN = (
    (event({"error": {"message": "pw-of-the-upstream"}}), "server"),
    (b"data: " + VLLM_ERROR + b"\n\n", "server"),
    (b"event: error\ndata: pw-of-the-upstream\n\n", "server"),
    (b"data: <html>pw-of-the-upstream\n\n", "protocol"),
    (WORD[:-9] + b"\n\n", "protocol"),
    (WORD.replace(b"Hello", b"\xff"), "protocol"),
    (WORD.replace(b"upstream-name", b"\xe4\xb8"), "protocol"),
    (WORD[:-9], "cut"),
)


@pytest.mark.parametrize("make", [None, Pass], ids=["plain", "filtered"])
@pytest.mark.parametrize("together", [True, False], ids=["one piece", "two pieces"])
async def test_after_content_what_is_no_event_ends_the_stream_truthfully(
    installed: Install,
    scripted: Scripted,
    server: ModelServer,
    *,
    make: type[Pass] | None,
    together: bool,
) -> None:
    gates = [Gate() for _ in BROKEN]
    models = {}
    for number, (bad, _) in enumerate(BROKEN):
        pieces = [WORD + bad] if together else [WORD, bad]
        upstream = await scripted(streaming(ROLE + WORD, *pieces, gate=gates[number]))
        models[str(number)] = [at(upstream, "bad", weight=9), at(server, "good")]
    plugins = [] if make is None else [("filter", filtering(make))]
    here = await installed(models, plugins=plugins)
    for number, gate in enumerate(gates):
        reply = await here.client.chat(str(number), stream=True, sink=gate)
        assert reply.body.startswith(ROLE + WORD + WORD)
        assert msgspec.json.decode(reply.events()[-1])["error"]["code"] == "stream_cut"
        assert len(reply.events()) == 4
        assert b"[DONE]" not in reply.body
        assert b"pw-of-the-upstream" not in reply.body
    assert server.requests == []
    for record, (_, outcome) in zip(await here.records(), BROKEN, strict=True):
        assert (record.status, record.http_status) == ("incomplete", 200)
        assert [attempt.outcome for attempt in record.attempts] == [outcome]


@pytest.mark.parametrize("plugin", ["none", "passes", "holds", "judges"])
async def test_a_stream_that_breaks_behind_its_finish_reason_is_complete(
    installed: Install, scripted: Scripted, plugin: str
) -> None:
    made: dict[str, Any] = {
        "passes": filtering(Pass),
        "holds": filtering(Hold),
        "judges": judging(lambda reply: None),
    }
    models = {}
    for ending in ("cut", "stuck"):
        for name, last in (("bare", (STOP,)), ("two", (STOP, USAGE)), ("one", (STOP + USAGE,))):
            upstream = await scripted(streaming(ROLE, WORD, *last, ending=ending))
            models[f"{name} {ending}"] = [at(upstream, timeouts=Timeouts(idle=0.05))]
    here = await installed(models, plugins=[(name, made[name]) for name in {plugin} & {*made}])
    for model in models:
        reply = await here.client.chat(model, stream=True)
        assert reply.body.endswith(DONE)
        assert reply.body.count(b"[DONE]") == 1
        assert reply.chunks()[-1]["choices"][0]["finish_reason"] == "stop"
    for record in await here.records():
        assert (record.status, record.http_status) == ("completed", 200)
        assert record.usage.source == ("estimated" if "bare" in record.model else "provider")


@pytest.mark.parametrize("finished", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("ending", ["end", "cut"])
async def test_of_several_choices_every_one_must_have_finished(
    installed: Install, scripted: Scripted, *, finished: tuple[int, ...], ending: str
) -> None:
    def of(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        document = chat_chunk(delta, finish)
        document["choices"][0]["index"] = index
        return event(document)

    gate = Gate()
    pieces = [of(0, {"content": "a"}) + of(1, {"content": "b"})]
    pieces += [of(index, {}, "stop") for index in finished]
    upstream = await scripted(streaming(*pieces, b"", ending=ending, gate=gate))
    here = await installed({"m": [at(upstream)]})
    reply = await here.client.chat("m", stream=True, n=2, sink=gate)
    record = await here.only_record()
    if len(finished) == 2:
        assert reply.body == b"".join(pieces) + DONE
        assert record.status == "completed"
    else:
        assert b"[DONE]" not in reply.body
        assert msgspec.json.decode(reply.events()[-1])["error"]["code"] == "stream_cut"
        assert record.status == "incomplete"
