"""What an upstream that speaks OpenAI's form says went wrong, as a classified failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.wire.refusal import error_object
from llmgw_core.wire.refusal_class import class_of

if TYPE_CHECKING:
    from llmgw_core.domain.failure import FailureKind

_KINDS: Final[dict[int, FailureKind]] = {
    401: "credentials",
    402: "credentials",
    403: "credentials",
    408: "timeout",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    529: "overloaded",
}
_CLIENTS_FAULT: Final = frozenset((400, 404, 409, 410, 413, 422, 451))
_REFUSED: Final = frozenset(("context_window", "content_policy"))
_EMPTY: Final = "insufficient_quota"
"""What OpenAI says, with 429, when an account has no money left: no time will help."""


def status_failure(status: int, body: bytes, retry_after: float | None = None) -> UpstreamFailure:
    """A reply that is not 2xx. A 4xx that is the client's fault goes back if it is a JSON object;
    an HTML page of some proxy on the way is not for clients, and neither is what says that the
    gateway itself asks wrongly (405, 415, a redirect)."""
    kind = _KINDS.get(status) or ("server" if status >= 500 else "client")
    error = error_object(body)
    says = class_of(error)
    message = f"the upstream answered {status}"
    if says in _REFUSED and (kind in ("client", "server") or status == 403):
        # Engines say it with 500, too; whatever the status is, it is the request that is at fault.
        kind, status = says, status if status in _CLIENTS_FAULT else 400
    elif kind == "rate_limited" and _EMPTY in (error.get("code"), error.get("type")):
        kind = "credentials"
    elif kind == "client" and not (status in _CLIENTS_FAULT and _is_object(body)):
        kind = "protocol"
    return UpstreamFailure(kind, message, status=status, body=body, retry_after=retry_after)


def error_in_200(document: bytes, message: str, status: int = 0) -> UpstreamFailure:
    """An error object where a reply or an event of a stream should be: a failure of the server,
    unless it says that the request is too long, not allowed, or too much now."""
    kind = class_of(error_object(document))
    if kind is None:
        return UpstreamFailure("server", message, status=status)
    if kind in _REFUSED:
        return UpstreamFailure(kind, message, status=400, body=document)
    return UpstreamFailure(kind, message, status=200)


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(body), dict)
    except (msgspec.DecodeError, RecursionError):
        return False
