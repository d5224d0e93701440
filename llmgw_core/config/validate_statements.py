"""What the types cannot say about the section `statements`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmgw_core.config.errors import join, listed, suggestion
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from llmgw_core.config.schema import Config
    from llmgw_core.config.schema_statements import PoolConfig

WEIGHTED: Final = (
    "input",
    "cached_input",
    "cache_write",
    "audio_input",
    "image_input",
    "output",
    "reasoning",
    "audio_output",
    "image_output",
    "accepted_prediction",
    "rejected_prediction",
)
"""The classes of tokens that can have a weight."""
_LARGEST: Final = 10**12
_FINEST: Final = -9


def statements_errors(config: Config) -> Iterator[ConfigError]:
    """Every error in the section."""
    section, path = config.statements, "statements"
    try:
        ZoneInfo(section.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = "is no time zone that this machine knows; write one like `Europe/Berlin`."
        yield ConfigError(message, path=join(path, "timezone"))
    if not 0 <= section.decimals <= 9:
        message = "must be from 0 to 9: the books count billionths."
        yield ConfigError(message, path=join(path, "decimals"))
    if not (math.isfinite(section.grace) and section.grace >= 0):
        yield ConfigError("must be 0 seconds or more.", path=join(path, "grace"))
    deployments = [
        f"{name}/{deployment.name}"
        for name, model in config.models.items()
        for deployment in model.deployments
    ]
    for name, pool in section.pools.items():
        place = join(join(path, "pools"), name)
        yield from _pool(pool, place)
        yield from _known(pool.deployments, deployments, join(place, "deployments"))
        yield from _known(pool.models, config.models, join(place, "models"))


def _pool(pool: PoolConfig, path: str) -> Iterator[ConfigError]:
    if not _amount(pool.monthly):
        message = "must be an amount from 0, with at most nine decimals."
        yield ConfigError(message, path=join(path, "monthly"))
    if not (pool.deployments or pool.models):
        message = "a pool names the `deployments` or `models` that it pays for."
        yield ConfigError(message, path=path)
    for name, weight in pool.weights.items():
        place = join(join(path, "weights"), name)
        if name not in WEIGHTED:
            hint = suggestion(name, WEIGHTED) or f"; there are {listed(WEIGHTED)}."
            yield ConfigError(f"unknown class of tokens `{name}`{hint}", path=place)
        elif not _amount(weight):
            message = "must be a number from 0, with at most nine decimals."
            yield ConfigError(message, path=place)
    if pool.capacity is not None and not (_amount(pool.capacity) and pool.capacity > 0):
        message = "must be more than 0 weighted tokens per hour; leave it out to share out all."
        yield ConfigError(message, path=join(path, "capacity"))
    if pool.valid_from and pool.valid_until and pool.valid_from >= pool.valid_until:
        message = "must lie behind `from`; it is the day after the last one."
        yield ConfigError(message, path=join(path, "until"))


def _known(names: Iterable[str], known: Iterable[str], path: str) -> Iterator[ConfigError]:
    """A pool outlives what it paid for: a name that is gone is no error, one that is alike is."""
    there = list(known)
    for index, name in enumerate(names):
        hint = "" if name in there else suggestion(name, there)
        if hint:
            yield ConfigError(f"unknown name `{name}`{hint}", path=join(path, index))


def _amount(value: Decimal) -> bool:
    if not value.is_finite() or not 0 <= value <= _LARGEST:
        return False
    return value == round(value, -_FINEST)
