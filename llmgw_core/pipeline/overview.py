"""What a running gateway can say of its calls: those that run now, what they add up to, and why
the last ones were refused. No content of any kind, internal ids only.

Read when somebody asks; calls do nothing for it, but a refusal is remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.pipeline.settlement import Settlement
    from llmgw_core.pipeline.stats import Stats

_LONGEST = 200
"""Characters of a name that a client has made up."""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A call that was refused, by whatever decides before it costs anything. `rule` is what
    decided, for operators: the id of a meter, a rule of the grant, what the candidates lack."""

    call_id: str
    at_ns: int
    endpoint: str
    organization_id: str | None
    team_id: str | None
    user_id: str | None
    key_id: str | None
    model: str
    http_status: int
    error_code: str
    rule: str


class RunningCall(msgspec.Struct, frozen=True):
    """`deployment` is that of the attempt that runs, "" while there is none; `attempts` have
    ended before. `content`: the client has something of the answer."""

    call_id: str
    endpoint: str
    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None
    model: str
    stream: bool
    deployment: str
    attempts: int
    content: bool
    seconds: float
    attempt_seconds: float
    parent: str | None


class ModelTotals(msgspec.Struct):
    """Since the start of the gateway. `failed`: replies with a status from 500."""

    model: str
    calls: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Load(msgspec.Struct, frozen=True):
    """`at` is in seconds of a clock that never goes back: two of these make rates. `waiting` of the
    calls that run have no slot yet. `attempts`: deployment → outcome → number."""

    at: float
    running: tuple[RunningCall, ...]
    waiting: int
    models: tuple[ModelTotals, ...]
    refused: int
    attempts: dict[str, dict[str, int]]


def refusal(call: Call, error: GatewayError) -> Refusal:
    """What is remembered of `call`."""
    principal = call.principal
    return Refusal(
        call.id,
        call.started_ns,
        call.endpoint,
        principal.organization_id if principal else None,
        principal.team_id if principal else None,
        principal.user_id if principal else None,
        principal.key_id if principal else None,
        call.asked[:_LONGEST],
        error.status,
        error.code,
        error.rule,
    )


def load(stats: Stats, now: float) -> Load:
    """How busy the gateway is at `now`, the longest call first."""
    running = [one for books in stats.books for one in tuple(books.open)]
    models: dict[str, ModelTotals] = {}
    for (_, model, status), tally in tuple(stats.calls.items()):
        totals = models.setdefault(model, ModelTotals(model))
        totals.calls += tally.calls
        totals.failed += tally.calls if status >= 500 else 0
        totals.input_tokens += tally.input_tokens
        totals.output_tokens += tally.output_tokens
    attempts: dict[str, dict[str, int]] = {}
    for (deployment, outcome), number in tuple(stats.attempts.items()):
        attempts.setdefault(deployment, {})[outcome] = number
    calls = sorted((_seen(one, now) for one in running), key=lambda call: -call.seconds)
    refused = sum(stats.refusals.values())
    return Load(now, tuple(calls), stats.waiting, tuple(models.values()), refused, attempts)


def _seen(settlement: Settlement, now: float) -> RunningCall:
    call, attempt = settlement.call, settlement.attempt
    principal = call.principal
    assert principal is not None
    return RunningCall(
        call_id=call.id,
        endpoint=call.endpoint,
        organization_id=principal.organization_id,
        team_id=principal.team_id,
        user_id=principal.user_id,
        key_id=principal.key_id,
        model=call.asked,
        stream=call.request.stream,
        deployment=attempt.deployment.id if attempt else "",
        attempts=settlement.attempts,
        content=bool(settlement.first_content),
        seconds=now - call.started,
        attempt_seconds=now - attempt.started if attempt else 0.0,
        parent=None if call.subcall is None else call.subcall.parent,
    )
