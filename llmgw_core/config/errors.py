"""What is wrong with a configuration, all of it at once. Messages name keys and types, never
values: a value may be a secret."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class ConfigErrors(ConfigError):
    """Every error that was found; the text has one sentence per line."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def raise_all(errors: Iterable[ConfigError]) -> None:
    """Raise `ConfigErrors` if there are any."""
    found = tuple(errors)
    if found:
        raise ConfigErrors(found)


def join(path: str, key: str | int) -> str:
    """The dotted path of `key` below `path`; unusual keys are quoted (`models."gpt-4.1"`)."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if _PLAIN_KEY.fullmatch(key) else '"' + key.replace('"', '\\"') + '"'
    return f"{path}.{name}" if path else name


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for the nearest of `known`, or nothing."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{nearest[0]}`?" if nearest else ""


def listed(names: Iterable[str]) -> str:
    """Names in backticks, sorted, separated by commas; `none` when there are none."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"
