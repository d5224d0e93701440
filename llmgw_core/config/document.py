"""From YAML text to plain values: dicts with string keys, lists, str, int, bool, None, Decimal.

Scalars follow YAML 1.2's core schema (`no`, `on` and `12:30` are strings) and numbers with a
point stay exact as `Decimal`; dates stay strings, which typed decoding understands. Duplicate
keys, tags and expanding aliases are errors. The text is never quoted in an error.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import yaml

from llmgw_core.config.errors import ConfigErrors, join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    _Base = yaml.SafeLoader
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_VALUES: Final = 200_000
"""Values in one document after aliases are expanded."""
MAX_DEPTH: Final = 64
LARGEST: Final = 10**18
"""Whole numbers are not larger, nor smaller than its negative."""

_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = _TAG + "merge"
_SCALARS: Final = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
)


class _Loader(_Base):
    """The safe loader, with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- declared so by the base


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        _TAG + _name,
        re.compile(f"^(?:{_pattern})$"),
        ["" if character == "\0" else character for character in _first],
    )


def read_document(text: str) -> Any:
    """The value of the one YAML document in `text`; None for an empty one. Raises
    `ConfigErrors` with the line of every culprit."""
    builder = _Builder()
    value = builder.value(compose(text), "", 0)
    if builder.errors:
        raise ConfigErrors(builder.errors)
    return value


def compose(text: str) -> yaml.Node | None:
    """The nodes of the one document, with their marks. Raises `ConfigErrors`."""
    try:
        # Before composing, which goes down by recursion, in C without any limit of its own.
        _look_at_depth(yaml.parse(text, Loader=_Loader))
        # Composing builds a graph of nodes and no objects; the loader is a safe one all the same.
        return yaml.compose(text, Loader=_Loader)
    except yaml.composer.ComposerError as error:
        raise _syntax(
            error.problem_mark,
            "an alias (`*name`) without its anchor, or more than one"
            " document; quote a value that starts with `*`",
        ) from None
    except yaml.reader.ReaderError as error:
        raise ConfigErrors(
            [ConfigError(f"not text that YAML allows: a control character at {error.position}.")]
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(error.problem_mark, error.problem or "not YAML") from None


def _look_at_depth(events: Iterator[yaml.Event]) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                error = ConfigError(f"nested deeper than {MAX_DEPTH} levels.")
                if event.start_mark is not None:
                    error.line = event.start_mark.line + 1
                    error.column = event.start_mark.column + 1
                raise ConfigErrors([error])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax(mark: yaml.Mark | None, problem: str) -> ConfigErrors:
    if mark is None:
        return ConfigErrors([ConfigError(f"{problem}.")])
    line, column = mark.line + 1, mark.column + 1
    message = f"line {line}, column {column}: {problem}."
    return ConfigErrors([ConfigError(message, line=line, column=column)])


class _Builder:
    """Turns nodes into values, counting them: a bound on what aliases can expand to."""

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []
        self.count = 0

    def value(self, node: yaml.Node | None, path: str, depth: int) -> Any:
        """The value of `node`; on an error it is recorded and the value is None."""
        if node is None:
            return None
        self._spend(1, path)
        if depth > MAX_DEPTH:
            raise ConfigErrors([ConfigError(f"nested deeper than {MAX_DEPTH} levels.")])
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [
                self.value(item, join(path, index), depth + 1)
                for index, item in enumerate(node.value)
            ]
        return self._scalar(node, path)

    def _spend(self, count: int, path: str) -> None:
        self.count += count
        if self.count > MAX_VALUES:
            message = f"aliases expand to more than {MAX_VALUES} values."
            raise ConfigErrors([ConfigError(message, path=path)])

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = {**self._merged(value_node, path, depth), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._error(key_node, "a key must be a single word, not a list or mapping", path)
                continue
            name = str(key_node.value)  # numbers and dates as they are written
            if name in own:
                self._error(key_node, "given twice; a key may stand once in a mapping", path, name)
            own[name] = self.value(value_node, join(path, name), depth + 1)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: str, depth: int) -> dict[str, Any]:
        """What `<<` brings: one mapping, or several of which the first wins."""
        result: dict[str, Any] = {}
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            value = self.value(source, path, depth + 1)
            if not isinstance(value, dict):
                self._error(node, "`<<` takes a mapping or a list of mappings", path)
                continue
            self._spend(len(value), path)
            result = {**value, **result}
        return result

    def _scalar(self, node: yaml.Node, path: str) -> str | int | bool | Decimal | None:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        if "\0" in text:
            self._error(node, "holds a zero character, which no value can have", path)
            return None
        if tag in {"str", "merge"}:
            return str(text)
        if tag == "null":
            return None
        if tag == "bool" and text.lower() in {"true", "false"}:
            return bool(text.lower() == "true")
        try:
            if tag == "int":
                whole = int(text, 0 if text[:2] in {"0o", "0x"} else 10)
                if abs(whole) <= LARGEST:  # beyond it arithmetic with floats fails
                    return whole
            if tag == "float":
                number = Decimal(text)
                if not number.is_snan():  # it cannot even be compared
                    return number
        except (ValueError, ArithmeticError):
            pass
        if tag in {"int", "float"}:
            self._error(node, "not a number that can be read", path)
            return None
        self._error(node, "tags (`!...`) are not allowed; quote a value that starts with `!`", path)
        return None

    def _error(self, node: yaml.Node, problem: str, path: str, key: str | None = None) -> None:
        where = path if key is None else join(path, key)
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        message = f"{problem} (line {line})."
        self.errors.append(ConfigError(message, path=where, line=line, column=column))
