"""The fields of a struct type, found out once: msgspec evaluates its annotations at every call."""

from __future__ import annotations

import functools
from typing import Any

import msgspec


@functools.cache
def fields_of(kind: type[Any]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """What `msgspec.structs.fields` says of it."""
    return msgspec.structs.fields(kind)
