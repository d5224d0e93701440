"""The usage that providers send, in every variant: read however the bytes are cut, and booked.

The recordings lie beside this file, each with its source and whether it is one or is written after
a documentation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
import yaml

from llmgw_core.backends.canonical_stream import CanonicalStreamReader
from llmgw_core.domain.usage import Usage, UsageDetails
from llmgw_core.testing.installation import at, served_by
from llmgw_core.wire.sse import EventSplitter, event_data

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


class Recording(msgspec.Struct, frozen=True):
    """What a provider sends, and the usage that it means."""

    name: str
    basis: Literal["recorded", "documented", "made"]
    source: str
    kind: str
    text: str
    usage: dict[str, Any] | None
    elsewhere: bool = False

    @property
    def expected(self) -> Usage | None:
        if self.usage is None:
            return None
        details = self.usage.get("details")
        known = {**self.usage, "details": UsageDetails(**details) if details else None}
        return Usage(**known)

    @property
    def stream(self) -> bytes:
        return self.text.rstrip("\n").encode() + b"\n\n"


_FILE = Path(__file__).with_name("provider_usage.yaml")
RECORDINGS = msgspec.convert(yaml.safe_load(_FILE.read_text()), list[Recording])
STREAMS = [each for each in RECORDINGS if each.kind == "stream"]
named = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda each: each.name)
streamed = pytest.mark.parametrize("recording", STREAMS, ids=lambda each: each.name)


def read(pieces: list[bytes], *, hide_usage: bool) -> tuple[bytes, Usage | None]:
    reader = CanonicalStreamReader(hide_usage=hide_usage)
    out = b""
    for piece in pieces:
        out += reader.feed(piece)
        if reader.done:
            break
    return out + reader.end(), reader.usage


def usages(stream: bytes) -> list[object]:
    """Of all chunks that a client gets."""
    found = [event_data(event) or b"" for event in EventSplitter().feed(stream)]
    chunks = [msgspec.json.decode(data) for data in found if data.strip() not in (b"", b"[DONE]")]
    return [chunk["usage"] for chunk in chunks if chunk.get("usage")]


def test_every_recording_says_where_it_is_from() -> None:
    assert len({each.name for each in RECORDINGS}) == len(RECORDINGS) > 40
    assert all(each.source for each in RECORDINGS)
    bases = [each.basis for each in RECORDINGS]
    assert bases.count("recorded") > bases.count("documented") > bases.count("made")
    assert {each.kind for each in RECORDINGS} == {"stream", "reply", "embeddings"}


@streamed
@pytest.mark.parametrize("hide_usage", [True, False])
def test_a_stream_that_is_cut_anywhere_says_the_same(
    recording: Recording, hide_usage: bool
) -> None:
    stream = recording.stream
    whole, usage = read([stream], hide_usage=hide_usage)
    assert usage == recording.expected
    single = [stream[at : at + 1] for at in range(len(stream))]
    assert read(single, hide_usage=hide_usage) == (whole, usage)
    for place in range(1, len(stream)):
        pieces = [stream[:place], stream[place:]]
        assert read(pieces, hide_usage=hide_usage) == (whole, usage), place
    assert bool(usages(whole)) == bool(usages(stream) and not hide_usage)


@named
async def test_it_is_booked_and_hidden_from_who_did_not_ask(
    installed: Install, server: ModelServer, recording: Recording
) -> None:
    body = recording.stream if recording.kind == "stream" else recording.text.strip().encode()
    server.events, server.reply, server.embeddings = [body], body, body
    kind = "embedding" if recording.kind == "embeddings" else "chat"
    here = await installed({"m": served_by(at(server), kind=kind)})
    if recording.kind == "stream":
        unasked = await here.client.chat("m", stream=True)
        asked = await here.client.chat("m", stream=True, stream_options={"include_usage": True})
        assert not usages(unasked.body)
        assert usages(asked.body) == usages(body)
        assert (b'"usage":{' in unasked.body) is recording.elsewhere
    elif recording.kind == "reply":
        assert (await here.client.chat("m")).body == body
    else:
        assert (await here.client.embed("m")).body == body
    for record in await here.records():
        assert record.status == "completed"
        if recording.expected is not None:
            assert record.usage == recording.expected
        else:
            assert (record.usage.source, record.usage.method) == ("estimated", "ratio")
            assert record.usage.input_tokens > 0
            assert record.usage.output_tokens > 0
