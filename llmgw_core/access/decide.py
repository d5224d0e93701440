"""May this principal use this model, in this zone. Pure; no I/O and no clock.

The organisation must grant; every lower level inherits when it has no list and else has to
match as well. So a lower level can only narrow, whatever it lists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.access.patterns import PatternSet

if TYPE_CHECKING:
    from llmgw_core.domain.access import Level, Principal

TagsOf = Callable[[str], Collection[str]] | Mapping[str, Collection[str]]

_CACHED_DECISIONS = 1024
_CACHED_NAME_LENGTH = 256


class Decision(msgspec.Struct, frozen=True):
    """`rule` says which level and pattern decided, e.g. `organization: gpt-*; key: gpt-4o`."""

    allowed: bool
    rule: str


class Access:
    """What one principal may use, with the tags of the models as they were when it was made."""

    __slots__ = ("_decisions", "_granting", "_tags_of", "_zones")

    def __init__(self, principal: Principal, tags_of: TagsOf) -> None:
        self._tags_of = _lookup(tags_of)
        self._granting = _granting(principal.levels)
        self._zones = _zones(principal.levels)
        self._decisions: dict[str, Decision] = {}

    def may_use(self, model: str) -> Decision:
        """Whether every level grants `model`. Remembers its answers."""
        known = self._decisions.get(model)
        if known is None:
            known = self._decide(model)
            self._remember(model, known)
        return known

    def zone_allowed(self, zone: str) -> bool:
        """Whether every level allows `zone`; a level without a list adds nothing."""
        return self._zones is None or zone in self._zones

    def _decide(self, model: str) -> Decision:
        if not self._granting:
            return Decision(False, "organization: grants nothing")
        tags = self._tags_of(model)
        matched = []
        for kind, patterns in self._granting:
            pattern = patterns.match(model, tags)
            if pattern is None:
                return Decision(False, f"{kind}: no pattern matches")
            matched.append(f"{kind}: {pattern}")
        return Decision(True, "; ".join(matched))

    def _remember(self, model: str, decision: Decision) -> None:
        # Names come from clients: neither their number nor their length may cost memory.
        if len(model) > _CACHED_NAME_LENGTH:
            return
        if len(self._decisions) >= _CACHED_DECISIONS:
            del self._decisions[next(iter(self._decisions))]
        self._decisions[model] = decision


def _lookup(tags_of: TagsOf) -> Callable[[str], Collection[str]]:
    if isinstance(tags_of, Mapping):
        table = tags_of
        return lambda model: table.get(model, ())
    return tags_of


def _granting(levels: tuple[Level, ...]) -> tuple[tuple[str, PatternSet], ...]:
    """The levels that have a list, organisation first; empty if no organisation grants."""
    if not levels or levels[0].kind != "organization" or levels[0].models is None:
        return ()
    return tuple((lv.kind, PatternSet(lv.models)) for lv in levels if lv.models is not None)


def _zones(levels: tuple[Level, ...]) -> frozenset[str] | None:
    """The intersection of all lists of zones; None when no level has one."""
    if not levels or levels[0].kind != "organization":
        return frozenset()
    allowed: frozenset[str] | None = None
    for level in levels:
        if level.zones is not None:
            listed = frozenset(level.zones)
            allowed = listed if allowed is None else allowed & listed
    return allowed
