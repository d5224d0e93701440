"""An upstream that speaks OpenAI's API, on a real socket, for tests.

`ModelServer` answers chat (streamed or not) and embeddings with what a test tells it to, counts
the tokens that it reported, and records every request. Upstreams that fail are
`llmgw_core.testing.faults`, or scripts of `llmgw_core.testing.upstream`, which both are built on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from llmgw_core.testing.recorded_request import RecordedRequest

JSON = ((b"content-type", b"application/json"),)
SSE = ((b"content-type", b"text/event-stream"),)
DONE = b"data: [DONE]\n\n"


def event(data: object) -> bytes:
    """One SSE event with `data` as JSON."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def completion(text: str = "Hello there", **usage: int) -> dict[str, Any]:
    """A chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "upstream-name",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": usage_object(**usage),
    }


def usage_object(input: int = 7, output: int = 3) -> dict[str, int]:
    """OpenAI's usage."""
    return {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}


def chat_chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """A streamed chunk with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "upstream-name",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


ROLE: Final = event(chat_chunk({"role": "assistant", "content": ""}))
WORD: Final = event(chat_chunk({"content": "Hello"}))
STOP: Final = event(chat_chunk({}, "stop"))
"""Of a stream with one word, and the reason for its end."""


def chat_events(
    words: Iterable[str] = ("Hello", " there"), *, usage: dict[str, int] | None = None
) -> list[bytes]:
    """The events of a streamed chat: role, words, finish, usage, end."""
    last = {**chat_chunk({}), "choices": [], "usage": usage or usage_object()}
    return [
        event(chat_chunk({"role": "assistant", "content": ""})),
        *(event(chat_chunk({"content": word})) for word in words),
        event(chat_chunk({}, "stop")),
        event(last),
        DONE,
    ]


class ModelServer:
    """An asynchronous context manager; `port` is known inside. Change `reply` and `events` at
    any time: they hold for the requests that come then. `listening` goes to `Upstream`."""

    def __init__(self, **listening: Any) -> None:
        self.reply: bytes = msgspec.json.encode(completion())
        self.embeddings: bytes = msgspec.json.encode(
            {
                "object": "list",
                "model": "upstream-name",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}],
                "usage": {"prompt_tokens": 5, "total_tokens": 5},
            }
        )
        self.events: list[bytes] = chat_events()
        self.status = 200
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.keep_open = True
        self._upstream = Upstream(self._serve, **listening)

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._upstream.host

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._upstream.port

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request received, in order."""
        return self._upstream.requests

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The decoded bodies of those requests."""
        return [msgspec.json.decode(request.body) for request in self.requests]

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self._upstream.accepted

    async def __aenter__(self) -> Self:
        await self._upstream.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._upstream.__aexit__(kind, error, trace)

    async def _serve(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.target.endswith("/embeddings"):
                await peer.send(http_reply(self.status, self.embeddings, JSON + self.headers))
            elif self.status == 200 and msgspec.json.decode(request.body).get("stream"):
                await peer.send(chunked_head(200, SSE + self.headers))
                for piece in self.events:
                    await peer.send(chunk(piece))
                await peer.send(chunk(b""))
            else:
                await peer.send(http_reply(self.status, self.reply, JSON + self.headers))
            if not self.keep_open:
                return
