"""What the types cannot say about `brake`. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from llmgw_core.config.errors import join
from llmgw_core.config.schema_brake import brake_of
from llmgw_core.domain.brake_rules import problems
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.config.schema_brake import BrakeConfig

_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LONGEST_IDLE: Final = 86_400.0
_MOST_BYTES: Final = 1 << 20


def brake_errors(brake: BrakeConfig, path: str) -> Iterator[ConfigError]:
    """Every error in `brake`."""
    for name, problem in problems(brake_of(brake)[0]):
        yield ConfigError(f"{problem}.", path=join(path, name))
    if not 1 <= brake.idle_seconds <= _LONGEST_IDLE:
        message = f"must be a number of seconds from 1 to {_LONGEST_IDLE:.0f}."
        yield ConfigError(message, path=join(path, "idle_seconds"))
    if not _HEADER.fullmatch(brake.session_header):
        message = "must be the name of a header, e.g. `x-session-id`."
        yield ConfigError(message, path=join(path, "session_header"))
    if not 1 <= brake.session_bytes <= _MOST_BYTES:
        message = f"must be from 1 to {_MOST_BYTES}."
        yield ConfigError(message, path=join(path, "session_bytes"))
