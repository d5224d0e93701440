"""What the caller is told when no attempt has delivered: an error of the gateway's own, or the
upstream's words about a request that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.domain.errors import GatewayError, overloaded, upstream_failed
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.wire.refusal import HIDDEN, refusal_body

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.failure import FailureKind
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.routing.course import Course

_CODES: Final[dict[FailureKind, str]] = {
    "context_window": "context_length_exceeded",
    "content_policy": "content_policy_violation",
}


def verdict(kind: FailureKind, after: float | None, *, late: bool = False) -> GatewayError:
    """The error for a call of which `kind` says most. `after`: seconds until somebody might be
    free again; `late`: the call's deadline has passed."""
    match kind:
        case "unavailable" | "connect":
            return overloaded(
                "The model is not available at the moment.",
                code="upstream_unavailable",
                retry_after=after,
            )
        case "overloaded":
            return overloaded(
                "The model is overloaded.", code="upstream_overloaded", retry_after=after
            )
        case "rate_limited":
            return GatewayError(
                429,
                "upstream_rate_limited",
                "The model is rate limited.",
                type="rate_limit_error",
                retry_after=after if after is not None else 1.0,
            )
        case "timeout":
            return deadline_exceeded() if late else _no_answer()
        case "credentials":
            return upstream_failed(
                "The gateway's credentials for this model were refused. Your own key is fine.",
                code="upstream_credentials_exhausted",
                should_retry=False,
            )
        case _:
            return upstream_failed("The model's backend failed.")


def nobody(course: Course) -> GatewayError:
    """For a call that nobody may take now: all are switched off, or at their caps."""
    wait = course.room_in()
    error = verdict("unavailable" if wait is None else "rate_limited", wait)
    return error.decided_by(course.obstacles())


def deadline_exceeded() -> GatewayError:
    """504: the time that the call had is over."""
    return upstream_failed(
        "The model did not answer within the time that the call has.",
        code="deadline_exceeded",
        status=504,
    )


def _no_answer() -> GatewayError:
    return upstream_failed("The model did not answer in time.", code="upstream_timeout", status=504)


def told(
    failure: UpstreamFailure, call: Call, deployment: Deployment, host: PluginHost
) -> UpstreamFailure:
    """A refusal in the upstream's words, without those that are not for callers."""
    try:
        address = host.backends[deployment.backend].origin(deployment).host
    except UpstreamFailure:  # it was there a moment ago
        address = ""
    secrets = (deployment.credential, *deployment.credentials)
    words = {each.value: HIDDEN for each in secrets}
    words |= {deployment.upstream_model: call.model, address: HIDDEN}
    code = _CODES.get(failure.kind, "upstream_refused")
    failure.body = refusal_body(failure.body, call.id, words, code)
    return failure
