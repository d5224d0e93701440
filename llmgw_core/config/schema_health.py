"""The sections `breaker` and `probes` of `routing`, of a model's `routing` and of a deployment's.

A key that is not given is inherited: the deployment's goes before the model's, and that before
the file's own section `routing`.
"""

from __future__ import annotations

import msgspec

from llmgw_core.domain.health import ListedModels  # noqa: TC001 -- msgspec reads it at run time


class BreakerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The circuit breaker: what becomes of calls decides whether a deployment gets more of them.
    Timeouts, lost connections, 5xx and the like count; 429, refused credentials, requests that are
    at fault themselves and clients that leave never do. Times in seconds.

    `enabled` (true). A deployment is ejected after `consecutive` (5) failures in a row, or when
    at least `failure_share` (0.5) of the calls of the last `window` (30) failed and there were
    `minimum_calls` (20); 0 switches either off. It is left alone for `ejection` (5), each time
    twice as long as the time before, up to `max_ejection` (60); `decay` (60) without an ejection
    make up for one. Then `probes` (1) calls are let through: all of them must succeed, else it is
    ejected again. At most `max_ejected` (0.75) of a model's deployments are ejected at a time, but
    always one; 0 ejects nobody."""

    enabled: bool | None = None
    consecutive: int | None = None
    failure_share: float | None = None
    window: float | None = None
    minimum_calls: int | None = None
    probes: int | None = None
    ejection: float | None = None
    max_ejection: float | None = None
    decay: float | None = None
    max_ejected: float | None = None


class ProbesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asking engines how they are, in the background.

    `enabled` (false). Every `interval` (10) seconds the engine's `health_path` (`/health`, as vLLM,
    SGLang, TGI and llama.cpp have it) and `metrics_path` (`/metrics`, of the same four) are asked,
    each for `timeout` (3) seconds; an empty path is not asked. Paths are relative to the upstream's
    address without the `/v1` at its end. A deployment is not ready at once when the engine says so,
    and after `failures` (2) questions in a row without an answer. `models`: when the engine's list
    of models does not have the deployment's, `warn` (the default) writes it into the log, `require`
    takes the deployment for not ready, `ignore` does not ask. An engine with `max_waiting` requests
    queued, or with `max_kv_use` (0 to 1) of its KV cache in use, gets no calls while another
    deployment of the model can take them; 0 (the default of both) does not look."""

    enabled: bool | None = None
    interval: float | None = None
    timeout: float | None = None
    failures: int | None = None
    health_path: str | None = None
    metrics_path: str | None = None
    models: ListedModels | None = None
    max_waiting: int | None = None
    max_kv_use: float | None = None
