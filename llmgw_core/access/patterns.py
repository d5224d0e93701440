"""The patterns that grants are written in: a model name, a name with `*`, or `tag:NAME`.

Only `*` is special (any number of any characters, none included); matching is case-sensitive
and covers the whole name. It takes time linear in the name for each piece between stars:
names come from clients, so backtracking would be a way to burn the gateway's time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

TAG_PREFIX = "tag:"
_NAME = re.compile(r"[A-Za-z0-9._:/@+*-]{1,200}")
_TAG = re.compile(r"[A-Za-z0-9._/@+-]{1,100}")


def problem(pattern: str) -> str:
    """What is wrong with `pattern`, as the end of a sentence; "" if nothing is."""
    if pattern.startswith(TAG_PREFIX):
        if _TAG.fullmatch(pattern.removeprefix(TAG_PREFIX)):
            return ""
        return "a tag consists of 1 to 100 letters, digits and . _ / @ + - (no wildcard)"
    if _NAME.fullmatch(pattern):
        return ""
    return "a model pattern consists of 1 to 200 letters, digits and . _ : / @ + - and *"


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern`, in which only `*` is special. Not for `tag:` patterns."""
    first, *pieces = pattern.split("*")
    if not pieces:
        return first == name
    last = pieces.pop()
    end = len(name) - len(last)
    if end < len(first) or not (name.startswith(first) and name.endswith(last)):
        return False
    position = len(first)
    for piece in pieces:
        found = name.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


class PatternSet:
    """The patterns of one level, sorted by how they are tested."""

    __slots__ = ("_names", "_tags", "_wildcards")

    def __init__(self, patterns: Iterable[str]) -> None:
        listed = tuple(patterns)
        self._tags = tuple(p for p in listed if p.startswith(TAG_PREFIX))
        names = [p for p in listed if not p.startswith(TAG_PREFIX)]
        self._names = frozenset(p for p in names if "*" not in p)
        self._wildcards = tuple(p for p in names if "*" in p)

    def match(self, model: str, tags: Collection[str]) -> str | None:
        """The first pattern that covers `model`, which carries `tags`; None if none does."""
        if model in self._names:
            return model
        for pattern in self._wildcards:
            if matches(pattern, model):
                return pattern
        for pattern in self._tags:
            if pattern.removeprefix(TAG_PREFIX) in tags:
                return pattern
        return None
