"""What is left of a configuration when its mistakes are taken out: a value that can be decoded, so
that what comes after types can be looked at in the same go. For explanations only; nothing ever
runs with it.
"""

from __future__ import annotations

import datetime as dt
import typing
from decimal import Decimal
from typing import Any, Final

import msgspec

from llmgw_core.config.decode import is_uniform, without_none
from llmgw_core.config.errors import join

_OMITTED: Final = object()


class Repair:
    """`value(raw, kind)` is a value that fits `kind`; `paths` are those of what was replaced by a
    default or a stand-in."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def value(self, raw: Any, kind: Any, path: str = "") -> Any:
        """`raw` without what does not fit."""
        found = self._value(raw, kind, path)
        return stand_in(kind) if found is _OMITTED else found

    def _value(self, raw: Any, kind: Any, path: str) -> Any:
        kind = without_none(raw, kind)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if _is_struct(kind) and isinstance(raw, dict):
            return self._struct(raw, kind, path)
        if origin in {list, tuple} and isinstance(raw, list) and is_uniform(origin, arguments):
            return [
                self.value(item, arguments[0], join(path, index)) for index, item in enumerate(raw)
            ]
        if origin is dict and isinstance(raw, dict) and arguments[0] is str:
            return {k: self.value(item, arguments[1], join(path, k)) for k, item in raw.items()}
        try:
            msgspec.convert(raw, kind, strict=True)
        except msgspec.ValidationError:
            self.paths.add(path)
            return _OMITTED
        return raw

    def _struct(self, raw: dict[str, Any], kind: Any, path: str) -> dict[str, Any]:
        fitting: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            name, place = field.encode_name, join(path, field.encode_name)
            found = self._value(raw[name], field.type, place) if name in raw else _OMITTED
            if found is _OMITTED and field.required:
                self.paths.add(place)
                found = stand_in(field.type)
            if found is not _OMITTED:
                fitting[name] = found
        return fitting

    def covers(self, path: str) -> bool:
        """Whether what stands at `path` is no word of the operator's."""
        return any(path == bad or path.startswith((f"{bad}.", f"{bad}[")) for bad in self.paths)


def stand_in(kind: Any) -> Any:
    """Some value of that kind, as it would stand in a file."""
    kind = without_none(..., kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if _is_struct(kind):
        fields = (field for field in msgspec.structs.fields(kind) if field.required)
        return {field.encode_name: stand_in(field.type) for field in fields}
    if origin is typing.Literal:
        return arguments[0]
    if origin in {list, tuple}:
        return [stand_in(arguments[0])] if _is_struct(arguments[0]) else []
    if origin is dict:
        return {}
    plain = {str: "?", int: 1, float: 1.0, bool: False, Decimal: 1, dt.date: "2000-01-01"}
    return plain.get(kind)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
