"""The typed section `routing`: how calls find their deployment and what happens when one fails.

What a deployment says goes before what its model says, and that before what the file's own section
`routing` says, key by key (`inherit`). A key that is nowhere given has the default of the type
that the rules are resolved into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from llmgw_core.config.fields import fields_of
from llmgw_core.config.schema_health import BreakerConfig, ProbesConfig
from llmgw_core.config.schema_streams import OverloadConfig, StreamsConfig
from llmgw_core.domain.deployment import PATIENCE
from llmgw_core.domain.ramp import Ramp
from llmgw_core.domain.rules import CALL_RULES, RULES, Redirect, Treatment

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T", bound=msgspec.Struct)


class TreatmentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What follows each class of failure: `retry` (another deployment, and when none is left the
    same one again after a pause), `elsewhere` (another one only) or `stop` (the caller is told)."""

    unavailable: Treatment | None = None
    connect: Treatment | None = None
    timeout: Treatment | None = None
    cut: Treatment | None = None
    protocol: Treatment | None = None
    overloaded: Treatment | None = None
    rate_limited: Treatment | None = None
    credentials: Redirect | None = None
    server: Treatment | None = None
    context_window: Redirect | None = None
    content_policy: Redirect | None = None


class DeploymentRouting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How failures of one deployment are treated.

    `retries`: how often a call comes back to a deployment that failed it, when nobody else is left
    (default 1; 0: never). `retry_within_ms`: only to one that failed within so many milliseconds
    (2000). `backoff_ms` (100): the pause before is drawn from 0 to this, which doubles with each
    one. `pause_max_ms` (5000): no pause is longer; whoever asks for more is not waited for.
    `cooldown_seconds` (2): how long a deployment that answers 429 without a time is left alone,
    doubling while that goes on. `cooldown_max_seconds` (600): and at most, whatever it asks for.
    `credential_rest_seconds` (300): how long a refused credential is not used, unless its secret
    changes. `breaker` and `probes`: how the health of deployments is watched."""

    failures: TreatmentConfig = TreatmentConfig()
    retries: int | None = None
    retry_within_ms: int | None = None
    backoff_ms: int | None = None
    pause_max_ms: int | None = None
    cooldown_seconds: float | None = None
    cooldown_max_seconds: float | None = None
    credential_rest_seconds: float | None = None
    breaker: BreakerConfig = BreakerConfig()
    probes: ProbesConfig = ProbesConfig()


class ModelRouting(DeploymentRouting, frozen=True, forbid_unknown_fields=True):
    """How the calls of one model go, and what holds for its deployments.

    `balancer`: who chooses among the deployments of the model. `round_robin`: in turns, by weight;
    `least_outstanding`: who has the fewest calls and tokens in flight; `peak_ewma`: of two drawn at
    random, who is expected to answer first; `cheapest`: who costs least; `prefix_affinity`,
    `session_affinity`: the same prompt or session to the same one, within bounds. Plugins may
    register others. `balancer_options` are the balancer's own.

    `attempts`: at most so many in one call (default: `requests.attempts`). `deadline_seconds`: from
    the first attempt to the whole reply, or to the first content of a stream (600, or the longest
    `timeouts.total` among the deployments). `retry_share` (0.5): of the model's calls, so many may
    be tried again, against storms, and `retry_minimum` (5) more in each second."""

    balancer: str | None = None
    balancer_options: dict[str, Any] | None = None
    attempts: int | None = None
    deadline_seconds: float | None = None
    retry_share: float | None = None
    retry_minimum: float | None = None


class StreamTimeoutsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other timeouts for streams, in seconds. `first_token`: from the start of an attempt to the
    first content. `total`: of the whole stream. Neither has a default."""

    first_byte: float | None = None
    first_token: float | None = None
    idle: float | None = None
    total: float | None = None


class TimeoutsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All in seconds. `connect` (5). `first_byte` (600): from the request sent to the head of the
    reply. `idle` (300): between two reads of a body. `total` (600): of one attempt, streams
    excepted. `stream`: what is different for streams."""

    connect: float | None = None
    first_byte: float | None = None
    idle: float | None = None
    total: float | None = None
    stream: StreamTimeoutsConfig = StreamTimeoutsConfig()


class GeneralTimeouts(TimeoutsConfig, frozen=True, forbid_unknown_fields=True):
    """As those of a model or deployment; these hold where those say nothing."""

    connect: float = PATIENCE.connect
    first_byte: float = PATIENCE.first_byte
    idle: float = PATIENCE.idle
    total: float = PATIENCE.total


class RoutingConfig(ModelRouting, frozen=True, forbid_unknown_fields=True):
    """Everything here holds for all models and deployments that do not say otherwise; see
    `models.NAME.routing` and `models.NAME.timeouts`. A model that names another `balancer` begins
    with that one's own options. `ramp`: how deployments come into use that are new, or were ill and
    are well again. `reply_headers`: replies tell clients how many attempts there were
    (`x-llmgw-attempts`) and the name of the last deployment (`x-llmgw-deployment`); the head of a
    stream tells what is known when it leaves."""

    balancer: str = "round_robin"
    balancer_options: dict[str, Any] = {}
    ramp: Ramp = Ramp()
    streams: StreamsConfig = StreamsConfig()
    overload: OverloadConfig = OverloadConfig()
    reply_headers: bool = False
    timeouts: GeneralTimeouts = GeneralTimeouts()
    retries: int = RULES.retries
    retry_within_ms: int = RULES.retry_within_ms
    backoff_ms: int = RULES.backoff_ms
    pause_max_ms: int = RULES.pause_max_ms
    cooldown_seconds: float = RULES.cooldown_seconds
    cooldown_max_seconds: float = RULES.cooldown_max_seconds
    credential_rest_seconds: float = RULES.credential_rest_seconds
    retry_share: float = CALL_RULES.retry_share
    retry_minimum: float = CALL_RULES.retry_minimum


def inherit(kind: type[T], *layers: msgspec.Struct | None) -> T:
    """A `kind` whose fields are those of the first of `layers` that has a field of this name with
    another value than None; sections are put together in the same way. What no layer gives is the
    default of `kind`. Layers may be of different types."""
    present = [layer for layer in layers if layer is not None]
    return kind(**dict(_given(kind, present)))


def _given(kind: type[T], layers: list[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    for field in fields_of(kind):
        values = [getattr(layer, field.name, None) for layer in layers]
        values = [value for value in values if value is not None]
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield field.name, inherit(field.type, *values)
        elif values:
            yield field.name, values[0]
