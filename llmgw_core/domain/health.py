"""How the health of deployments is watched, as it holds for one deployment, and what is told when
it changes. Values only; `routing.breaker`, `routing.readiness` and `pipeline.prober` read them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ListedModels = Literal["ignore", "warn", "require"]
"""What follows when an engine does not list the model of a deployment."""


class BreakerSettings(msgspec.Struct, frozen=True):
    """When a deployment is ejected, and for how long. Times in seconds.

    `consecutive`: failures in a row (0: not looked at). `failure_share`: share of failures among
    the calls of the last `window`, once there were `minimum_calls` (0: not looked at). `probes`:
    calls let through on trial, all of which must succeed. `ejection`: the first one lasts so long,
    every further one twice as long as the one before, up to `max_ejection`; `decay`: so long a
    time of health makes up for one of them. `max_ejected`: at most this share of a model's
    deployments is ejected, but always one (0: none)."""

    enabled: bool = True
    consecutive: int = 5
    failure_share: float = 0.5
    window: float = 30.0
    minimum_calls: int = 20
    probes: int = 1
    ejection: float = 5.0
    max_ejection: float = 60.0
    decay: float = 60.0
    max_ejected: float = 0.75


class ProbeSettings(msgspec.Struct, frozen=True):
    """What an engine is asked every `interval` seconds, each question for `timeout` seconds.

    `health_path` and `metrics_path` are asked unless they are empty. After `failures` questions
    about its health in a row that got no answer a deployment is not ready; one that says so itself
    is not ready at once. `models`: what follows when the engine does not list the deployment's
    model. With as many as `max_waiting` requests in front of it, or `max_kv_use` of its KV cache
    in use (0: not looked at), an engine gets no calls while another can take them."""

    enabled: bool = False
    interval: float = 10.0
    timeout: float = 3.0
    failures: int = 2
    health_path: str = "/health"
    metrics_path: str = "/metrics"
    models: ListedModels = "warn"
    max_waiting: int = 0
    max_kv_use: float = 0.0


class HealthChange(msgspec.Struct, frozen=True):
    """The health of a deployment has changed. `part`: what found out, the circuit `breaker` (by
    what became of calls) or a `probe`. `before` and `after` are `closed`, `open` and `half_open`
    of a breaker, `ready` and `not_ready` of a probe. `seconds`: how long an ejection lasts. `at`:
    nanoseconds since the epoch."""

    deployment: str
    part: Literal["breaker", "probe"]
    before: str
    after: str
    reason: str
    seconds: float = 0.0
    at: int = 0
