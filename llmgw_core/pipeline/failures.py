"""Errors of the transport in the pipeline's own classes, and the one line that is logged of a
failed attempt. The texts are for logs and never for clients.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from llmgw_core.domain.failure import FailureKind, UpstreamFailure

if TYPE_CHECKING:
    from llmgw_core.backends.transport.port import TransportError

log = logging.getLogger("llmgw.attempts")

_KINDS: dict[str, FailureKind] = {
    "dns": "connect",
    "refused": "connect",
    "tls": "connect",
    "pool": "overloaded",
    "timeout": "timeout",
    "reset": "cut",
    "protocol": "protocol",
    "too_large": "protocol",
}


def let_go(error: Exception) -> None:
    """Forget where it was raised: an error that is kept, by those frames if by nobody else, keeps
    its call and all that was sent with it."""
    error.__traceback__ = error.__context__ = error.__cause__ = None


def stale(error: TransportError) -> bool:
    """A kept-alive connection that the peer had closed: it says nothing about the peer."""
    return (
        error.reused
        and not error.received
        and error.kind in ("reset", "protocol")
        and error.phase in ("send", "head")
    )


def classified(error: TransportError) -> UpstreamFailure:
    """The failure of the attempt that ran into `error`."""
    kind = _KINDS[error.kind]
    if error.phase == "connect" and kind == "cut":
        kind = "connect"
    return UpstreamFailure(kind, str(error))


def report(call_id: str, deployment: str, failure: UpstreamFailure, then: str = "stop") -> None:
    """Log a failed attempt, and what follows."""
    log.warning(
        "attempt failed: call=%s deployment=%s kind=%s status=%d: %s; then: %s",
        call_id,
        deployment,
        failure.kind,
        failure.status,
        failure,
        then,
    )
