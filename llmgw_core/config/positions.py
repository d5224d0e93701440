"""Where in its text a configuration says what: lines and columns by path.

Looked up only when there is something to complain about, so that reading a good file costs
nothing more.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import yaml

from llmgw_core.config.document import MAX_DEPTH, compose
from llmgw_core.config.errors import ConfigErrors, join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST: Final = 200_000


@contextmanager
def located(text: str, file: Path | str) -> Iterator[None]:
    """Errors of the configuration in `text` that are raised inside say where in `file` they
    are. Those that say so already, and those without a path, stay as they are."""
    try:
        yield
    except ConfigError as error:
        found = error.errors if isinstance(error, ConfigErrors) else (error,)
        raise ConfigErrors(place(found, text, file)) from error.__cause__


def place(
    errors: list[ConfigError] | tuple[ConfigError, ...], text: str, file: Path | str
) -> list[ConfigError]:
    """`errors` with file, line and column, in the order of the text."""
    known = positions(text)
    placed = [_placed(error, known, str(file)) for error in errors]
    return sorted(placed, key=lambda error: (error.line, error.column))


def _placed(error: ConfigError, known: dict[str, tuple[int, int]], file: str) -> ConfigError:
    if error.file:
        return error
    line, column = (error.line, error.column) if error.line else _nearest(error, known)
    return ConfigError(
        error.message, path=error.path, at=error.at, file=file, line=line, column=column
    )


def _nearest(error: ConfigError, known: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """The place of the path, or of the nearest one around it that the text has."""
    path = error.at or error.path
    while path and path not in known:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return known.get(path, (0, 0))


def positions(text: str) -> dict[str, tuple[int, int]]:
    """Line and column, from 1, of every key and list item; empty for what is not YAML."""
    found: dict[str, tuple[int, int]] = {}
    try:
        root = compose(text)
    except ConfigErrors:
        return found
    if root is not None:
        _walk(root, "", 0, found)
    return found


def _walk(node: yaml.Node, path: str, depth: int, found: dict[str, tuple[int, int]]) -> None:
    if depth > MAX_DEPTH or len(found) > _MOST:
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value == "<<":  # what is merged stands where it was written
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    _walk(merged, path, depth + 1, found)
                continue
            place = join(path, str(key.value))
            found[place] = (key.start_mark.line + 1, key.start_mark.column + 1)
            _walk(value, place, depth + 1, found)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            place = join(path, index)
            found[place] = (item.start_mark.line + 1, item.start_mark.column + 1)
            _walk(item, place, depth + 1, found)
