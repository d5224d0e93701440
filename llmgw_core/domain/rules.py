"""The rules by which the attempts of a call go on after a failure, as they hold for one model and
for one deployment. Values only; `routing.policy` reads them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from llmgw_core.domain.health import BreakerSettings, ProbeSettings

Treatment = Literal["retry", "elsewhere", "stop"]
"""`retry`: another deployment, and when none is left, after a pause, the same one again.
`elsewhere`: another deployment and never the same one again. `stop`: the caller is told."""
Redirect = Literal["elsewhere", "stop"]


class Treatments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What follows each class of failure. A request that is at fault itself (400, 404, 422) is not
    among them: nobody else would take it, and the caller is told at once.

    `unavailable`: the backend itself knows that it cannot serve now. `connect`: refused, reset,
    no such name, no TLS, before anything was sent. `timeout`: connecting, first byte, first token,
    idle or total. `cut`: the connection or the stream broke off. `protocol`: no HTTP, no JSON, a
    page of HTML. `overloaded`: 503, 529 and their like. `rate_limited`: 429. `credentials`: 401,
    402, 403. `server`: other 5xx, an error in a 200. `context_window`: the request is too long
    for the model; goes to its `context_fallbacks`. `content_policy`: the provider refuses the
    content; goes to the model's `content_policy_fallbacks`."""

    unavailable: Treatment = "retry"
    connect: Treatment = "retry"
    timeout: Treatment = "elsewhere"
    cut: Treatment = "retry"
    protocol: Treatment = "elsewhere"
    overloaded: Treatment = "retry"
    rate_limited: Treatment = "retry"
    credentials: Redirect = "elsewhere"
    server: Treatment = "retry"
    context_window: Redirect = "elsewhere"
    content_policy: Redirect = "elsewhere"


class Rules(msgspec.Struct, frozen=True):
    """What holds for one deployment.

    `retries`: how often one call comes back to a deployment that has failed it, when nobody else
    is left. `retry_within_ms`: only to one that had failed within this time, and that does not ask
    to be left alone for longer than `pause_max_ms`. The pause before is drawn anew each time from
    0 to `backoff_ms`, which doubles up to `pause_max_ms`.

    `cooldown_seconds`: how long a deployment that says 429 without saying until when is left
    alone; it doubles while that goes on. `cooldown_max_seconds` bounds what it may ask for.
    `credential_rest_seconds`: how long a credential that was refused is left alone, unless its
    secret changes before. `breaker` and `probes`: how its health is watched."""

    failures: Treatments = Treatments()
    retries: int = 1
    retry_within_ms: int = 2_000
    backoff_ms: int = 100
    pause_max_ms: int = 5_000
    cooldown_seconds: float = 2.0
    cooldown_max_seconds: float = 600.0
    credential_rest_seconds: float = 300.0
    breaker: BreakerSettings = BreakerSettings()
    probes: ProbeSettings = ProbeSettings()


class CallRules(msgspec.Struct, frozen=True):
    """What holds for the calls of one model.

    `attempts`: at most so many in one call. `deadline_seconds`: from the first attempt until the
    whole reply is there, or the first content of a stream; None: 600, or the longest total timeout
    of a deployment that may be tried, if that is longer. `retry_share`: of the calls of the model,
    so many may be tried again (1 is as many as there are calls), and `retry_minimum` more in each
    second."""

    attempts: int = 5
    deadline_seconds: float | None = None
    retry_share: float = 0.5
    retry_minimum: float = 5.0


DEFAULT_DEADLINE = 600.0
RULES = Rules()
CALL_RULES = CallRules()
