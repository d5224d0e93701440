"""Raw values into typed structs, explaining every mismatch by path and not just the first.

The decoding itself is `msgspec.convert`, strict. Keys that a struct does not have are always an
error here, whether or not the struct forbids them. Messages never contain the value.
"""

from __future__ import annotations

import types
import typing
from typing import Any, TypeVar, Union

import msgspec

from llmgw_core.config.errors import ConfigErrors, join, suggestion
from llmgw_core.config.fields import fields_of
from llmgw_core.domain.errors import ConfigError

T = TypeVar("T")


def decode(value: Any, kind: type[T], path: str = "") -> T:
    """`value` as `kind`. Raises `ConfigErrors` with one error per culprit."""
    errors = list(explain(value, kind, path))
    if not errors:
        try:
            return msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError as error:
            errors = [_located(error, path)]
    raise ConfigErrors(errors)


def explain(value: Any, kind: Any, path: str) -> typing.Iterator[ConfigError]:
    """Everything that is wrong with `value`, descending into structs and containers."""
    kind = without_none(value, kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        yield from _explain_struct(value, kind, path)
    elif origin in {list, tuple} and isinstance(value, list) and is_uniform(origin, arguments):
        for index, item in enumerate(value):
            yield from explain(item, arguments[0], join(path, index))
    elif origin is dict and isinstance(value, dict) and arguments[0] is str:
        for key, item in value.items():
            yield from explain(item, arguments[1], join(path, key))
    else:
        yield from _explain_leaf(value, kind, path)


def _explain_struct(
    value: dict[str, Any], kind: type[msgspec.Struct], path: str
) -> typing.Iterator[ConfigError]:
    fields = {field.encode_name: field for field in fields_of(kind)}
    tag = kind.__struct_config__.tag_field
    for key in value:
        if key not in fields and key != tag:
            hint = suggestion(key, fields) or (
                f"; known are {', '.join(f'`{name}`' for name in fields)}." if fields else "."
            )
            yield ConfigError(f"unknown key `{key}`{hint}", path=path, at=join(path, key))
    for name, field in fields.items():
        if name in value:
            yield from explain(value[name], field.type, join(path, name))
        elif field.required:
            yield ConfigError(f"the key `{name}` is missing.", path=path)


def _explain_leaf(value: Any, kind: Any, path: str) -> typing.Iterator[ConfigError]:
    if typing.get_origin(kind) is typing.Literal:
        known = [str(word) for word in typing.get_args(kind)]
        if value not in typing.get_args(kind):
            words = ", ".join(f"`{word}`" for word in known)
            hint = suggestion(value, known) if isinstance(value, str) else ""
            yield ConfigError(f"must be one of {words}{hint or '.'}", path=path)
        return
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        yield _located(error, path)


def without_none(value: Any, kind: Any) -> Any:
    """The one other member of `X | None`, so that what is inside it can be explained."""
    if value is None or typing.get_origin(kind) not in {Union, types.UnionType}:
        return kind
    others = [member for member in typing.get_args(kind) if member is not types.NoneType]
    return others[0] if len(others) == 1 else kind


def is_uniform(origin: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether all items of the list are of one kind."""
    return len(arguments) == (1 if origin is list else 2) and (
        origin is list or arguments[1] is Ellipsis
    )


def _located(error: msgspec.ValidationError, path: str) -> ConfigError:
    """The library's sentence without its quoted values, under the path that it names."""
    message, _, place = str(error).partition(" - at `$")
    below = place.removesuffix("`").replace("[...]", "[]")
    if message.startswith(("Invalid enum value", "Invalid value")):  # they quote it
        message = "Not one of the values that are allowed"
    message = message[:1].lower() + message[1:]
    return ConfigError(f"{message}.", path=(path + below).lstrip("."))
