"""What the types cannot say about attempts, timeouts and windows.

Pure: a `Config` in, errors out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from llmgw_core.config.errors import join
from llmgw_core.config.validate_health import breaker_errors, probe_errors
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import msgspec

    from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
    from llmgw_core.config.schema_routing import DeploymentRouting
    from llmgw_core.domain.ramp import Ramp

_AT_LEAST: Final = {"attempts": 1, "retries": 0, "context_window": 1}
_AMOUNTS: Final = (
    "retry_within_ms",
    "backoff_ms",
    "pause_max_ms",
    "cooldown_seconds",
    "cooldown_max_seconds",
    "credential_rest_seconds",
    "retry_share",
    "retry_minimum",
)
_SECONDS: Final = ("deadline_seconds", "connect", "first_byte", "first_token", "idle", "total")


def routing_errors(config: Config) -> Iterator[ConfigError]:
    """Every error in the sections `routing` and `timeouts`."""
    yield from _routing(config.routing, "routing")
    yield from _ramp(config.routing.ramp)
    yield from _timeouts(config.routing.timeouts, "routing.timeouts")
    for name, model in config.models.items():
        path = join("models", name)
        yield from _model(model, path)
        for index, deployment in enumerate(model.deployments):
            yield from _deployment(deployment, join(join(path, "deployments"), index))


def _ramp(ramp: Ramp) -> Iterator[ConfigError]:
    if not 0 <= ramp.seconds < math.inf:
        yield ConfigError("must be a number of seconds, 0 or more.", path="routing.ramp.seconds")
    if not 0 < ramp.start <= 1:
        message = "must be a share of the calls, more than 0 and at most 1."
        yield ConfigError(message, path="routing.ramp.start")


def _model(model: ModelConfig, path: str) -> Iterator[ConfigError]:
    yield from _section(model, path)
    yield from _routing(model.routing, join(path, "routing"))
    yield from _timeouts(model.timeouts, join(path, "timeouts"))


def _deployment(deployment: DeploymentConfig, path: str) -> Iterator[ConfigError]:
    yield from _section(deployment, path)
    yield from _routing(deployment.routing, join(path, "routing"))
    yield from _timeouts(deployment.timeouts, join(path, "timeouts"))
    for index, credential in enumerate(deployment.credentials):
        if not credential:
            message = "a credential in the list must not be empty."
            yield ConfigError(message, path=join(join(path, "credentials"), index))


def _routing(section: DeploymentRouting, path: str) -> Iterator[ConfigError]:
    yield from _section(section, path)
    yield from breaker_errors(section.breaker, join(path, "breaker"))
    yield from probe_errors(section.probes, join(path, "probes"))


def _timeouts(section: msgspec.Struct, path: str) -> Iterator[ConfigError]:
    yield from _section(section, path)
    stream = getattr(section, "stream", None)
    if stream is not None:
        yield from _section(stream, join(path, "stream"))


def _section(section: msgspec.Struct, path: str) -> Iterator[ConfigError]:
    """The numbers that stand directly in `section`."""
    for field in section.__struct_fields__:
        value = getattr(section, field)
        if value is None:
            continue
        problem = ""
        if field in _AT_LEAST and value < _AT_LEAST[field]:
            problem = f"must be at least {_AT_LEAST[field]}."
        elif field in _AMOUNTS and not (0 <= value < math.inf):
            problem = "must be a number, 0 or more."
        elif field in _SECONDS and not (0 < value < math.inf):
            problem = "must be a number of seconds greater than 0."
        if problem:
            yield ConfigError(problem, path=join(path, field))
