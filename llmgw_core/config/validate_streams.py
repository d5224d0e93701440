"""What the types cannot say about `routing.streams`, `routing.overload` and tokenizers. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.config.schema_streams import OverloadConfig, QueueRule, StreamsConfig
    from llmgw_core.config.schema_tokenizer import TokenizerConfig

_CALLERS = ("organization", "team", "user", "key", "tag")


def streams_errors(streams: StreamsConfig, path: str) -> Iterator[ConfigError]:
    """Every error in `routing.streams`."""
    for field in ("held_bytes", "held_events", "keep_alive_seconds"):
        value = getattr(streams, field)
        if value is not None:
            yield from _positive(value, join(path, field))


def overload_errors(overload: OverloadConfig, path: str) -> Iterator[ConfigError]:
    """Every error in `routing.overload`."""
    if overload.in_flight is not None:
        yield from _positive(overload.in_flight, join(path, "in_flight"))
    for field in ("length", "wait_seconds"):
        yield from _positive(getattr(overload, field), join(path, field))
    for index, rule in enumerate(overload.rules):
        yield from _rule(rule, join(join(path, "rules"), index))


def _rule(rule: QueueRule, path: str) -> Iterator[ConfigError]:
    if not any(getattr(rule, field) for field in _CALLERS):
        message = (
            "fits every call; say for whom it is: `organization`, `team`, `user`, `key`, `tag`."
        )
        yield ConfigError(message, path=path)
    if (rule.team or rule.user) and not rule.organization:
        message = "names of teams and users are known within an `organization` only; name it, too."
        yield ConfigError(message, path=path)
    yield from _positive(rule.weight, join(path, "weight"))


def _positive(value: float, path: str) -> Iterator[ConfigError]:
    if not (0 < value < math.inf):
        yield ConfigError("must be greater than 0.", path=path)


def tokenizer_errors(tokenizer: TokenizerConfig, path: str) -> Iterator[ConfigError]:
    """Every error in the `tokenizer` of a model."""
    if not tokenizer.name:
        message = "name one that an enabled plugin registers, or leave the section out."
        yield ConfigError(message, path=join(path, "name"))
    yield from _positive(tokenizer.max_bytes, join(path, "max_bytes"))
