"""How attempts fail: one classification, made by adapters, read by the routing policy."""

from __future__ import annotations

from typing import Literal

FailureKind = Literal[
    "unavailable",  # the backend itself knows that it cannot serve now
    "connect",  # refused, reset, DNS or TLS before anything was sent
    "timeout",
    "cut",  # connection lost, or a stream that ended without its end
    "protocol",  # not HTTP, not JSON, HTML, a wrong content type, an oversized body
    "overloaded",  # 503, 529 and their like
    "rate_limited",  # 429
    "credentials",  # 401, 402, 403 from upstream
    "client",  # 400, 404, 413, 422...: the caller's request is at fault; passed through
    "context_window",  # too long for this model; passed through when no larger one takes it
    "content_policy",  # the provider refuses the content; passed through likewise
    "server",  # other 5xx, or an error object in a 200
]


class UpstreamFailure(Exception):
    """An attempt failed, classified. `status` is the upstream's (0 if none). For kind
    `client`, `context_window` and `content_policy`, `body` is a JSON object with the upstream's
    words; see `wire.refusal` for what of it is told. `retry_after` is in seconds. `ours`: a limit
    of the gateway or of the caller was the reason, which says nothing about the deployment. The
    text is for logs and never for clients.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int = 0,
        body: bytes = b"",
        retry_after: float | None = None,
        ours: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.status = status
        self.body = body
        self.retry_after = retry_after
        self.ours = ours
