"""What the caller is told when a meter has no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.domain.errors import (
    GatewayError,
    invalid_request,
    permission_denied,
    rate_limited,
)
from llmgw_core.limits import words
from llmgw_core.limits.counters import amount_of

if TYPE_CHECKING:
    from llmgw_core.limits.port import Demand, Exceeded


def limit_reached(error: Exceeded, tokens: int, demand: Demand | None = None) -> GatewayError:
    """The refusal of a call with `tokens` and `demand`; operators hear of the meter."""
    return _refusal(error, tokens, demand).decided_by(error.spec.id)


def _refusal(error: Exceeded, tokens: int, demand: Demand | None) -> GatewayError:
    spec = error.spec
    what, whose = words.amount(spec), words.owner(spec)
    if spec.limit <= 0:
        return permission_denied(f"The limit of the {whose} is {what}.")
    if error.never:
        needed = amount_of(spec, tokens, demand)
        kind = "" if spec.kind == "all" else f"{spec.kind} "
        whole = f"the whole limit of the {whose}: {what}"
        if spec.shape == "bucket":
            whole = f"what the {whose} may use at once: {spec.capacity}, at {what}"
        return invalid_request(
            f"The request needs up to {needed} {kind}tokens, more than {whole}."
            " Send less text or set a smaller max_tokens.",
            code="request_exceeds_limit",
        )
    return rate_limited(f"Rate limit reached for the {whose}: {what}.", error.retry_after)
