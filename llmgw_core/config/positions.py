"""Where in its text a configuration says what: lines and columns by path.

Looked up only when there is something to complain about, so that reading a good file costs
nothing more.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import yaml

from llmgw_core.config.document import MAX_DEPTH, MAX_VALUES, compose
from llmgw_core.config.errors import ConfigErrors, join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
    walk = _Walk()
    try:
        root = compose(text)
    except ConfigErrors:
        return walk.found
    if root is not None:
        walk.into(root, "", 0)
    return walk.found


class _Walk:
    """Bounded by the steps it takes: merges of merges lead to few places on very many ways."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, int]] = {}
        self._steps = 0

    def into(self, node: yaml.Node, path: str, depth: int) -> None:
        """Note the place of everything below `node`, which stands at `path`."""
        self._steps += 1
        if depth > MAX_DEPTH or self._steps > MAX_VALUES:
            return
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    self._key(key, value, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                place = join(path, index)
                self.found[place] = (item.start_mark.line + 1, item.start_mark.column + 1)
                self.into(item, place, depth + 1)

    def _key(self, key: yaml.ScalarNode, value: yaml.Node, path: str, depth: int) -> None:
        if key.value == "<<":  # what is merged stands where it was written
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                self.into(merged, path, depth + 1)
            return
        place = join(path, str(key.value))
        self.found[place] = (key.start_mark.line + 1, key.start_mark.column + 1)
        self.into(value, place, depth + 1)
