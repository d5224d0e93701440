"""A chat stream in OpenAI's own form: forwarded as bytes, looked at no more than needed.

Until the first content every event is decoded (to know the content commit point). After it, a
block of whole events goes through untouched unless a byte search finds one of the few marks
that matter: usage, an error, the end marker, bytes that are no text, an event that does not end as
JSON objects do. A mark inside generated text is only a reason to look closely, never a decision:
JSON escapes the quotes of text, and the close look decodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.chunks import (
    chunk_usage,
    decode_chunk,
    present,
    read_choice,
    without_usage,
)
from llmgw_core.backends.error_objects import error_in_200
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.wire.sse import EventSplitter, EventTooLarge, event_data, event_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.backends.chunks import ChoiceFacts, Chunk
    from llmgw_core.domain.usage import Usage

_DONE = b"[DONE]"
_USAGE = b'"usage"'
_NO_USAGE = (b'"usage":null', b'"usage": null')
_ERROR = b'"error"'
_NAMED = b"event:"
_EMPTY_DELTA = b'"delta":{}'
END = b"data: [DONE]\n\n"


class CanonicalStreamReader:
    """The `StreamReader` port for upstreams that speak OpenAI's form.

    `hide_usage`: the client did not ask for usage, so the chunk that exists only to carry it
    is dropped, and any other that carries it goes on without it.

    The last usage counts, wherever it came. What came before further text is out of date, and no
    usage unless a later one follows.
    """

    __slots__ = (
        "_done_event",
        "_envelope",
        "_events",
        "_hide_usage",
        "_last",
        "_looked",
        "_pending",
        "_quick",
        "_splitter",
        "_text",
        "_total",
        "content",
        "done",
        "finished",
        "usage",
    )

    def __init__(self, *, hide_usage: bool) -> None:
        self.content = False
        self.finished = False
        self.done = False
        self.usage: Usage | None = None
        self._hide_usage = hide_usage
        self._splitter = EventSplitter()
        self._done_event = END
        self._pending = b""
        self._quick = False
        self._last = self._looked = b""
        self._envelope = 0
        self._events = 0
        self._total = 0
        self._text = 0

    @property
    def output_bytes(self) -> int:
        """Produced text so far: exact for events that were decoded; for those that went through
        as bytes, their size without the envelope that the first content event had.
        """
        total, events = self._total, self._events
        if self._last is not self._looked and _EMPTY_DELTA in self._last:
            # The event that only says why the model stopped has less of an envelope.
            last = self._last[self._last.rfind(b"data:") :]
            if _EMPTY_DELTA in last:
                total, events = total - len(last), events - 1
        return self._text + max(0, total - events * self._envelope)

    def feed(self, data: bytes) -> bytes:
        """See the port."""
        if self._quick and data[-3:] == b"}\n\n" and self._splitter.clean and _plain(data):
            events = data.count(b"\n\n")
            if events == 1 or events == data.count(b"}\n\n"):
                self._total += len(data)
                self._events += events
                if b"data:" in data:
                    self._last = data
                return data
        return self._feed_events(data)

    def _feed_events(self, data: bytes) -> bytes:
        self._pending = b""
        try:
            events = self._splitter.feed(data)
        except EventTooLarge:
            raise UpstreamFailure("protocol", "an event of the stream is too large") from None
        for event in events:
            if self.done:
                break
            self._pending += self._take(event)
        return self.pending()

    def pending(self) -> bytes:
        """See the port."""
        accepted, self._pending = self._pending, b""
        return accepted

    def end(self) -> bytes:
        """See the port."""
        rest = b"" if self.done else self._unfinished()
        if self.done:
            return rest + self._done_event
        if not self.finished:
            self._look_for_finish()
        if not self.finished:
            raise UpstreamFailure("cut", "the stream ended with neither finish_reason nor [DONE]")
        return rest + END

    def _unfinished(self) -> bytes:
        """The last event when the body ended before its blank line."""
        left = self._splitter.flush()
        if not left.strip():
            return b""
        self._pending = b""
        try:
            rest = self._take(left.rstrip(b"\r\n") + b"\n\n")
        except UpstreamFailure as failure:
            if failure.kind != "protocol":
                raise
            raise UpstreamFailure("cut", "the stream ended in the middle of an event") from None
        if self.done:
            self._done_event = END
        return rest

    def _take(self, event: bytes) -> bytes:
        """Account for one event; what of it goes to the client."""
        if self._quick and event.rstrip(b"\r\n")[-1:] == b"}" and _plain(event):
            self._total += len(event)
            self._events += 1
            if b"data:" in event:
                self._last = event
            return event
        return self._read(event)

    def _read(self, event: bytes) -> bytes:
        data = event_data(event)
        if data is None:
            return event
        if data.strip() == _DONE:
            self.done = True
            self._done_event = event
            return b""
        return self._look(event, data)

    def _look(self, event: bytes, data: bytes) -> bytes:
        if event_name(event) == b"error":
            raise error_in_200(data, "the stream carries an error event")
        try:
            if not data.isascii():
                str(data, "utf-8")  # what is skipped in decoding is not looked at otherwise
            chunk = decode_chunk(data)
            facts = [read_choice(raw) for raw in chunk.choices or ()]
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise UpstreamFailure("protocol", "an event of the stream is not valid JSON") from None
        if present(chunk.error) or bytes(chunk.object) == b'"error"':
            raise error_in_200(data, "the stream carries an error object")
        if chunk.choices:
            self._last = self._looked = event
        text = sum(fact.text for fact in facts)
        self._text += text
        self._note(facts)
        if not self.content and (self.finished or any(fact.content for fact in facts)):
            self.content = self._quick = True
            self._envelope = len(event) - text
        if present(chunk.usage) or self.usage is not None or present(chunk.x_groq):
            self._account(chunk, text)
            if self._hide_usage and present(chunk.usage):
                return without_usage(event, data) if chunk.choices else b""
        return event

    def _account(self, chunk: Chunk, text: int) -> None:
        """The usage of a chunk with `text` bytes of text, or what it means that it has none. From
        the first usage on every event is decoded, to see whether text follows."""
        usage = chunk_usage(chunk)
        if usage is not None:
            self.usage = usage
            self._quick = False
        elif text:
            self.usage = None
            self._quick = self.content

    def _note(self, facts: Iterable[ChoiceFacts]) -> None:
        self.finished = self.finished or any(fact.finished for fact in facts)

    def _look_for_finish(self) -> None:
        """The end marker is missing: was the last thing that came through a finished choice?"""
        for event in EventSplitter().feed(self._last):
            data = event_data(event)
            try:
                choices = decode_chunk(data).choices if data else None
                if any(read_choice(raw).finished for raw in choices or ()):
                    self.finished = True
            except (msgspec.DecodeError, RecursionError):
                return


def _plain(block: bytes) -> bool:
    """Text without a mark: neither usage (other than null), nor an error, nor the end."""
    if not block.isascii() and not _is_text(block):
        return False
    if _DONE in block or _ERROR in block or _NAMED in block:
        return False
    if _USAGE not in block:
        return True
    nulls = block.count(_NO_USAGE[0]) + block.count(_NO_USAGE[1])
    return nulls == block.count(_USAGE)


def _is_text(block: bytes) -> bool:
    try:
        str(block, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
