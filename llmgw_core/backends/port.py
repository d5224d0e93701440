"""The adapter port: how a call is spoken to one kind of upstream. Sans-IO, like h11.

An adapter never touches a socket or a clock. A `Backend` is registered by a plugin under a
name; `begin` makes a `Session` for one attempt; the pipeline carries its requests over a
transport and feeds it what comes back. Sessions give OpenAI's bytes plus `Usage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from llmgw_core.domain.failure import FailureKind, UpstreamFailure
from llmgw_core.domain.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from llmgw_core.backends.transport.port import HttpRequest
    from llmgw_core.domain.call import Call, Headers
    from llmgw_core.domain.deployment import Deployment, Origin
    from llmgw_core.domain.usage import Usage


class StreamReader(Protocol):
    """Turns the bytes of an upstream's stream into OpenAI's SSE bytes, whole events at a time.
    Chunking never matters. Attributes are read by the pipeline after each `feed`.
    """

    content: bool
    """True once a first content byte (text, tool call, reasoning, refusal) is in what was fed."""
    finished: bool
    """True once a `finish_reason` was seen."""
    done: bool
    """True once the end marker was seen. The marker itself is withheld: see `end`."""
    usage: Usage | None

    @property
    def output_bytes(self) -> int:
        """UTF-8 bytes of produced text so far (an estimate is allowed)."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Whole events to forward, or b"". Raises `UpstreamFailure` on an error event or a
        protocol error; what came before it is in `pending()`.
        """
        ...

    def pending(self) -> bytes:
        """Events accepted before a failure in the same `feed`, not yet forwarded."""
        ...

    def end(self) -> bytes:
        """Call at end of body or when `done`: the end marker to send. Raises `UpstreamFailure`
        kind `cut` when there was neither `finish_reason` nor an end marker.
        """
        ...


class Session(Protocol):
    """One attempt. May be begun anew for the same call any number of times."""

    def requests(self) -> Sequence[HttpRequest]:
        """What to send, in order; the last one's reply is the answer."""
        ...

    def reply(self, status: int, headers: Headers, body: bytes) -> Reply:
        """A complete 2xx reply. Raises `UpstreamFailure`."""
        ...

    def stream(self, status: int, headers: Headers) -> StreamReader | None:
        """A reader for a streamed 2xx reply, or None when the upstream answered a stream
        request with one JSON document (then `fold` makes a stream of it).
        """
        ...

    def error(self, status: int, headers: Headers, body: bytes) -> UpstreamFailure:
        """Classify a reply that is not 2xx."""
        ...


class Backend(Protocol):
    """What a plugin registers. `Options` is the typed settings of one deployment."""

    name: str

    @property
    def Options(self) -> type[msgspec.Struct]:  # noqa: N802 -- plugins write it as a class
        """The type that a deployment's `options` are decoded into."""
        ...

    def origin(self, deployment: Deployment) -> Origin:
        """Where this deployment's connections go now. Raises `UpstreamFailure` kind
        `unavailable` when there is nowhere (an engine that is not running).
        """
        ...

    def begin(self, call: Call, deployment: Deployment, credential: str) -> Session:
        """A session for one attempt of `call` on `deployment`."""
        ...

    def check(self, deployment: Deployment) -> None:
        """At start-up: raise `ConfigError` when the deployment's settings cannot work. Its `path`
        is the name of the option, or of the deployment's own key (`credential`), or empty."""
        ...


__all__ = [
    "Backend",
    "FailureKind",
    "Reply",
    "Session",
    "StreamReader",
    "UpstreamFailure",
]
