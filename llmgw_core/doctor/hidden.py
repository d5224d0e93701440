"""Which limits can never be reached because others refuse before: arithmetic on meters.

Rule of this file: pure, and never wrong about "never": whatever cannot be shown to be hidden is not
said to be.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.limits.port import MeterSpec


class Road(NamedTuple):
    """The meters that calls of one kind meet together, and the tokens that one of them can have at
    most, None if nobody knows."""

    specs: Sequence[MeterSpec]
    largest: int | None


class Hiding(NamedTuple):
    """`total` is what `specs` together let through where more would have to come."""

    specs: tuple[MeterSpec, ...]
    total: int


class _Flow(NamedTuple):
    """What gets through at once, and in the whole window of the meter that is looked at."""

    at_once: float
    in_window: float

    def reaches(self, spec: MeterSpec) -> bool:
        if spec.shape == "bucket":
            # Emptied by what comes at once, or by what comes faster than it refills.
            return self.at_once >= spec.capacity or self.in_window >= spec.limit
        return self.in_window >= spec.limit


_NOTHING_KNOWN = _Flow(math.inf, math.inf)


def hiding(spec: MeterSpec, roads: Iterable[Road]) -> Hiding | None:
    """Who hides `spec`, of which all calls take one of `roads`; None when nobody surely does."""
    every = [road for road in roads if any(each.id == spec.id for each in road.specs)]
    places = dict.fromkeys(
        (each.scope, bool(each.model)) for road in every for each in road.specs if each != spec
    )
    for scope, paired in places:
        found = _together(spec, every, scope, paired=paired)
        if found is not None:
            return found
    return None


def _together(spec: MeterSpec, roads: Iterable[Road], scope: str, *, paired: bool) -> Hiding | None:
    """The meters of one scope together, if every road has one of them."""
    flows: dict[str, tuple[MeterSpec, _Flow]] = {}
    for road in roads:
        least: tuple[MeterSpec, _Flow] | None = None
        for each in road.specs:
            place = each.scope, bool(each.model)
            if each.id == spec.id or each.shadow or place != (scope, paired):
                continue
            flow = _flow(each, spec, road.largest)
            if flow.in_window < math.inf and (least is None or flow < least[1]):
                least = each, flow
        if least is None:
            return None
        known = flows.get(least[0].id)
        if known is None or known[1] < least[1]:
            flows[least[0].id] = least
    together = _Flow(
        sum(flow.at_once for _, flow in flows.values()),
        sum(flow.in_window for _, flow in flows.values()),
    )
    if not flows or together.reaches(spec):
        return None
    return Hiding(tuple(each for each, _ in flows.values()), int(together.in_window))


def _flow(each: MeterSpec, of: MeterSpec, largest: int | None) -> _Flow:
    """What `each` lets through, in the unit of `of`."""
    if "parallel" in {each.unit, of.unit}:
        same = each.unit == of.unit
        return _Flow(each.limit, each.limit) if same else _NOTHING_KNOWN
    factor = 1
    if each.unit != of.unit:
        if (each.unit, of.unit) != ("requests", "tokens") or largest is None:
            return _NOTHING_KNOWN
        factor = largest
    elif each.kind not in {"all", of.kind}:
        return _NOTHING_KNOWN
    if each.shape == "bucket":
        # Of a bucket, the rate alone is what counts in the long run; a window is short.
        extra = 0 if of.shape == "bucket" else each.capacity
        rate = each.limit * of.window / each.window
        return _Flow(each.capacity * factor, (extra + rate) * factor)
    if of.shape == "bucket":
        return _Flow(each.limit * factor, each.limit * of.window / each.window * factor)
    return _Flow(each.limit * factor, each.limit * math.ceil(of.window / each.window) * factor)
