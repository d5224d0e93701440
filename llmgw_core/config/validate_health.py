"""What the types cannot say about the sections `breaker` and `probes`. Pure: sections in, errors
out."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.config.schema_health import BreakerConfig, ProbesConfig

_SECONDS: Final = ("window", "ejection", "max_ejection", "decay", "interval", "timeout")
_SHORTEST: Final = 0.001
_SHARES: Final = ("failure_share", "max_ejected", "max_kv_use")
_AT_LEAST: Final = {
    "consecutive": 0,
    "minimum_calls": 1,
    "probes": 1,
    "failures": 1,
    "max_waiting": 0,
}
_PATHS: Final = ("health_path", "metrics_path")
_PATH: Final = re.compile(r"/[\x21-\x7e]*")


def breaker_errors(breaker: BreakerConfig, path: str) -> Iterator[ConfigError]:
    """Every error in the section `breaker` at `path`."""
    yield from _fields(breaker, path)
    first, longest = breaker.ejection, breaker.max_ejection
    if first is not None and longest is not None and first > longest:
        message = f"must be at least as long as `ejection`, which is {first:g} s."
        yield ConfigError(message, path=join(path, "max_ejection"))


def probe_errors(probes: ProbesConfig, path: str) -> Iterator[ConfigError]:
    """Every error in the section `probes` at `path`."""
    yield from _fields(probes, path)
    for name in _PATHS:
        value = getattr(probes, name)
        if value and not _PATH.fullmatch(value):
            message = "must be a path that begins with `/` and has no spaces, or empty to not ask."
            yield ConfigError(message, path=join(path, name))


def _fields(section: Any, path: str) -> Iterator[ConfigError]:
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if value is None:
            continue
        place = join(path, name)
        if name in _SECONDS and not (0 < value < math.inf):
            yield ConfigError("must be a number of seconds greater than 0.", path=place)
        elif name in _SECONDS and value < _SHORTEST:
            yield ConfigError(f"must be at least {_SHORTEST} seconds.", path=place)
        elif name in _SHARES and not 0 <= value <= 1:
            yield ConfigError("must be a share between 0 and 1.", path=place)
        elif name in _AT_LEAST and value < _AT_LEAST[name]:
            yield ConfigError(f"must be at least {_AT_LEAST[name]}.", path=place)
