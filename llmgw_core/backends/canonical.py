"""The session for upstreams that speak OpenAI's own form: bytes in, bytes out.

It is the canonical form of the gateway, so there is nothing to translate; backends of plugins
use it as it is or build on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.canonical_choices import ChoicesStreamReader
from llmgw_core.backends.canonical_stream import CanonicalStreamReader
from llmgw_core.backends.chunks import decode_document, present, read_choice
from llmgw_core.backends.error_objects import error_in_200, status_failure
from llmgw_core.backends.port import Reply
from llmgw_core.backends.transport.port import HttpRequest
from llmgw_core.domain.call import State
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.wire.usage import read_usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call, Headers
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.wire.request import RequestView

_TARGETS = {"chat.completions": "/chat/completions", "embeddings": "/embeddings"}
_JSON = (b"content-type", b"application/json")
_AGENT = (b"user-agent", b"llmgw")


class CanonicalSession(State):
    """The `Session` port. `path_prefix` stands before `/chat/completions`; `extra_headers` are
    sent as they are (names in lower case); `auth` replaces the usual bearer header.
    """

    call: Call
    deployment: Deployment
    credential: str
    path_prefix: str = "/v1"
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    def requests(self) -> Sequence[HttpRequest]:
        """One POST. The call's id and trace context go with it, so that logs can be joined."""
        call, deployment = self.call, self.deployment
        return (
            HttpRequest(
                "POST",
                self.path_prefix + _TARGETS[call.endpoint],
                (
                    (b"x-request-id", call.id.encode()),
                    (b"traceparent", f"00-{call.trace_id}-{call.span_id}-01".encode()),
                ),
                call.request.encode(deployment.upstream_model, deployment.ask_usage),
                _common(self.credential, self.extra_headers),
            ),
        )

    def reply(self, status: int, headers: Headers, body: bytes) -> Reply:
        """See the port."""
        try:
            document = decode_document(body)
            if not body.isascii():
                body.decode()  # what stays raw is not looked at by the decoder
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            what = "compressed" if _coded(headers) else "not the JSON expected"
            raise UpstreamFailure("protocol", f"the reply is {what}") from None
        if document.error and present(document.error):
            raise error_in_200(body, "the reply is an error object", status)
        chat = self.call.endpoint == "chat.completions"
        if document.choices is None if chat else not present(document.data):
            raise UpstreamFailure("protocol", "the reply has neither choices nor data")
        usage = read_usage(document.usage, embeddings=not chat)
        if usage is not None or not chat:
            return Reply(body, usage)
        try:
            text = sum(read_choice(raw).text for raw in document.choices or ())
        except (msgspec.DecodeError, RecursionError):
            raise UpstreamFailure("protocol", "a choice of the reply is malformed") from None
        return Reply(body, None, text)

    def stream(self, status: int, headers: Headers) -> CanonicalStreamReader | None:
        """See the port."""
        for name, value in headers:
            if name == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
                if kind == b"application/json":
                    return None
                if kind != b"text/event-stream":
                    raise UpstreamFailure("protocol", "the stream has the wrong content type")
        if _coded(headers):
            raise UpstreamFailure("protocol", "the stream is compressed, though it must not be")
        request: RequestView = self.call.request
        hide_usage = not request.usage_wanted
        if request.choices > 1:
            return ChoicesStreamReader(hide_usage=hide_usage, choices=request.choices)
        return CanonicalStreamReader(hide_usage=hide_usage)

    def error(self, status: int, headers: Headers, body: bytes) -> UpstreamFailure:
        """See the port."""
        return status_failure(status, body, _retry_after(headers))


@lru_cache(maxsize=1024)
def _common(
    credential: str, extra: tuple[tuple[bytes, bytes], ...]
) -> tuple[tuple[bytes, bytes], ...]:
    """What every request with this credential has in its head; the same object every time."""
    if not credential:
        return (_JSON, _AGENT, *extra)
    bearer = (b"authorization", b"Bearer " + credential.encode("latin-1"))
    return (_JSON, _AGENT, bearer, *extra)


def _coded(headers: Headers) -> bool:
    """Whether a reply is compressed. Transports ask for replies that are not."""
    return any(
        name == b"content-encoding" and value.strip().lower() not in (b"", b"identity")
        for name, value in headers
    )


def _retry_after(headers: Headers) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`; None if absent or not a plain number."""
    for wanted, scale in ((b"retry-after-ms", 1000.0), (b"retry-after", 1.0)):
        for name, value in headers:
            if name == wanted and value.strip().isdigit() and len(value) < 10:
                return int(value) / scale
    return None
