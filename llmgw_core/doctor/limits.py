"""The limits of organisations, teams, users, keys, models and aliases, as suspects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.access.patterns import PatternSet
from llmgw_core.doctor.hidden import Road, hiding
from llmgw_core.doctor.scene import CAPPED
from llmgw_core.doctor.verdict import Problem
from llmgw_core.limits import words
from llmgw_core.limits.specs import meters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from llmgw_core.doctor.scene import Canary, Scene, Way
    from llmgw_core.domain.access import LevelKind
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.domain.limits import Limits
    from llmgw_core.limits.port import MeterSpec
    from llmgw_core.tenancy.records import LevelInfo

_FEW = 60
"""Requests up to which a limit is filled by calls, and not by counting."""


class LimitSuspect:
    """One limit. `nobody` says why no call meets it, if none does."""

    def __init__(self, where: str, spec: MeterSpec, nobody: str) -> None:
        self.where = where
        self.spec = spec
        self.id = spec.id
        self.what = what(spec)
        self._nobody = nobody

    def look(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        if self.spec.shadow:
            return in_shadow(self.spec)
        ways = self._ways(scene)
        if not ways:
            embeddings = "Only embeddings meet it, which have no tokens of output."
            reason = embeddings if scene.through(self.id) else self._nobody
            return Problem("unreachable", reason, _REACH)
        roads = [Road(way.lane.specs, largest_of(way)) for way in ways]
        return hidden(self.spec, roads)

    async def prove(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        way = min(self._ways(scene), key=lambda way: len(way.lane.specs))
        unusual = await self._unit(scene, way)
        if unusual is not None:
            return unusual
        scene.rest()
        first = await scene.send(way.principal, way.name)
        if not first.sings:
            return self._refused_at_once(first)
        scene.rest()
        if self.spec.unit == "requests" and most(self.spec) <= _FEW:
            problem = await self._use_up(scene, way)
        else:
            problem = await self._fill_up(scene, way)
        scene.rest()
        return problem

    def _ways(self, scene: Scene) -> list[Way]:
        """The calls that count in it."""
        ways = scene.through(self.id)
        if self.spec.kind != "output":
            return ways
        return [way for way in ways if way.lane.model.kind == "chat"]

    async def _unit(self, scene: Scene, way: Way) -> Problem | None:
        """Tokens that are fewer than one usual call needs."""
        spec = self.spec
        if spec.unit != "tokens":
            return None
        input_tokens, output = await scene.usual_tokens(way)
        usual = {"all": input_tokens + output, "input": input_tokens, "output": output}[spec.kind]
        if most(spec) >= usual:
            return None
        return Problem(
            "unit",
            f"A usual call reserves {usual} tokens, more than the {most(spec)} that may be used at"
            " all: calls are refused with 400, or take the whole of it.",
            f"Is the unit right? It counts {words.unit(spec)}, in single tokens.",
        )

    def _refused_at_once(self, canary: Canary) -> Problem:
        if canary.rule == self.id:
            reason = f"It refuses every call, with {canary.status}."
            return Problem("unit", reason, f"Is the unit right? It counts {words.unit(self.spec)}.")
        why = canary.rule or canary.code
        return Problem(
            "hidden", f"Before it can count, every call is refused by {why}.", "See to that first."
        )

    async def _use_up(self, scene: Scene, way: Way) -> Problem | None:
        """Call until it refuses, which it has to do after exactly its number. Where others stop
        these calls before, it is filled by counting."""
        for number in range(most(self.spec)):
            canary = await scene.send(way.principal, way.name)
            if not canary.sings:
                if canary.rule == self.id:
                    reason = f"It refused after {number} calls, and not after {most(self.spec)}."
                    return Problem("silent", reason, BUG)
                return await self._fill_up(scene, way)
        return await self._one_too_many(scene, way)

    async def _fill_up(self, scene: Scene, way: Way) -> Problem | None:
        """Count until there is room for one call, make it; count until there is none."""
        spec = self.spec
        if spec.unit != "tokens":
            scene.rest()
            give_back = scene.fill(scene.limiter, spec, most(spec) - 1)
            last = await scene.send(way.principal, way.name)
            give_back()
            if not last.sings:
                reason = f"With room for one call it said {last.status} ({last.rule or last.code})."
                return Problem("silent", reason, BUG)
        scene.rest()
        give_back = scene.fill(scene.limiter, spec, most(spec))
        if spec.unit == "parallel":
            return await self._one_too_many(scene, way, free=give_back)
        return await self._one_too_many(scene, way)

    async def _one_too_many(
        self, scene: Scene, way: Way, free: Callable[[], None] | None = None
    ) -> Problem | None:
        """The next call is one too many, and is not when it comes back as it was told, or after
        `free`."""
        over = await scene.send(way.principal, way.name)
        if free is not None:
            free()
        if over.sings:
            return Problem("silent", "At its limit it let another call through.", BUG)
        if over.rule != self.id:
            return Problem("hidden", f"{over.rule or over.code} refuses first.", _LOWER)
        if over.status != 429 or over.retry_after <= 0:
            return Problem("silent", f"It refused with {over.status}, and not with 429.", BUG)
        if free is None:
            scene.clock.now += over.retry_after
        again = await scene.send(way.principal, way.name)
        if not again.sings:
            return Problem("silent", "It refused again after the time that it had told.", BUG)
        return None


BUG = "This is not about the configuration: please report it."
_LOWER = "Lower this limit below that one, raise that one, or take this one away."
_REACH = "Take the limit away, or see to it that calls meet it."


def in_shadow(spec: MeterSpec) -> Problem:
    """That it is in shadow mode."""
    reason = "It is in shadow mode: it is counted and reported, and refuses nobody."
    return Problem("shadow", reason, f"Take {spec.name} out of `shadow` to have it refuse.")


def hidden(spec: MeterSpec, roads: Iterable[Road]) -> Problem | None:
    """That others always refuse before it can."""
    found = hiding(spec, roads)
    if found is None:
        return None
    first = ", ".join(f"{each.id} ({words.amount(each)})" for each in found.specs[:3])
    more = f" and {len(found.specs) - 3} more" if len(found.specs) > 3 else ""
    by = "hides" if len(found.specs) == 1 else "together hide"
    unit = "" if spec.unit == "parallel" else f" in {_time(spec)}"
    remedy = "Lower it below that, raise the others, or take it away."
    if any(each.window != spec.window for each in found.specs):
        remedy += " Is the unit right, by the minute or by the day?"
    return Problem(
        "hidden",
        f"{first}{more} {by} it: at most {found.total} {spec.unit} get that far{unit}, and it"
        f" refuses above {spec.limit}.",
        remedy,
    )


def _time(spec: MeterSpec) -> str:
    return words.unit(spec).rpartition("per ")[2].join(("a ", ""))


def what(spec: MeterSpec) -> str:
    """A limit in words."""
    burst = f", {spec.capacity} at once" if spec.shape == "bucket" else ""
    return f"{words.amount(spec)}{burst}"


def most(spec: MeterSpec) -> int:
    """What an empty meter lets through at once."""
    return spec.capacity if spec.shape == "bucket" else spec.limit


def largest_of(way: Way) -> int | None:
    """Tokens that a call can have at most, if somebody has said so."""
    tiers = way.lane.candidates.every_tier()
    return largest_on([each for tier in tiers for each in tier.deployments])


def largest_on(deployments: Sequence[Deployment]) -> int | None:
    """The same, of calls that go to these."""
    windows = [each.context_window for each in deployments]
    known = [each for each in windows if each is not None]
    return max(known) if known and len(known) == len(windows) else None


def limits_of_levels(scene: Scene) -> Iterator[LimitSuspect]:
    """Of organisations, teams, users and keys, and their pairs with models."""
    catalog = [m for name, m in scene.gateway.catalog.items() if not name.startswith(CAPPED)]
    for kind, info in scene.callers.levels:
        nobody = nobody_calls(scene, kind, info)
        where = f"{kind} {info.name}"
        for spec in meters_of(kind, info.id, info.limits):
            yield LimitSuspect(where, spec, nobody or "No model can be used by it.")
        for pattern, limits in info.model_limits:
            yield from _pairs(kind, info, pattern, limits, catalog, nobody)


def _pairs(
    kind: LevelKind,
    info: LevelInfo,
    pattern: str,
    limits: Limits,
    catalog: Iterable[Model],
    nobody: str,
) -> Iterator[LimitSuspect]:
    covered = [m for m in catalog if PatternSet((pattern,)).match(m.name, m.tags) is not None]
    place = f"{kind} {info.name}, models {pattern}"
    for model in covered:
        where = place if model.name == pattern else f"{place}, {model.name}"
        for spec in meters_of(kind, info.id, limits, model.name):
            reason = nobody or f"The model {model.name} cannot be used by it."
            yield LimitSuspect(where, spec, reason)
    if not covered:
        reason = f"The pattern {pattern} covers no model that is configured."
        for spec in meters_of(kind, info.id, limits, pattern):
            yield LimitSuspect(place, spec, reason)


def nobody_calls(scene: Scene, kind: LevelKind, info: LevelInfo) -> str:
    """Why nobody calls as a part of that level; "" when somebody can."""
    below = (
        level.id == info.id
        for principal in scene.callers.principals.values()
        for level in principal.levels
    )
    if any(below):
        return ""
    if info.disabled:
        return "It is disabled."
    if kind == "key":
        return "The key does not work: it is revoked, or something above it is disabled."
    return "It has no key that works."


def limits_of_models(scene: Scene) -> Iterator[LimitSuspect]:
    """Of models and aliases."""
    for name, model in scene.gateway.catalog.items():
        if name.startswith(CAPPED):
            continue
        kind = "model" if model.alias is None else "alias"
        nobody = "No key that works may use it."
        if model.life.state == "retired":
            nobody = "The model is retired."
        for spec in meters_of("model", name, model.limits):
            yield LimitSuspect(f"{kind} {name}", spec, nobody)
