"""The bounds of the brake for loops, of the configuration and of all levels, as suspects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.schema_brake import brake_of
from llmgw_core.doctor.limits import BUG, nobody_calls
from llmgw_core.doctor.verdict import Problem
from llmgw_core.domain.brake_rules import BOUNDS, MONEY
from llmgw_core.limits.budget_counts import decimal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.doctor.scene import Scene, Way
    from llmgw_core.domain.brake import Brake

_VELOCITY: Final = "velocity_floor"
_REACH = "Take the bound away, or see to it that calls meet it."
_LOWER = "Lower this bound below that one, raise that one, or take this one away."


class BrakeSuspect:
    """The bound `name` of a brake. `level` is the id of what has it, "" for the configuration;
    `nobody` says why no call meets it, if none does."""

    def __init__(self, where: str, level: str, name: str, brake: Brake, nobody: str) -> None:
        self.where = where
        self.id = f"brake {level or 'configuration'}:{name}"
        self._name = name
        self._level = level
        self._limit = getattr(brake, name)
        self._factor = brake.velocity_factor
        self._shadow = name in brake.shadow
        self._nobody = nobody
        shown = decimal(self._limit) if name in MONEY else f"{self._limit:g}"
        self.what = f"{name} {shown}"

    def look(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        if self._shadow:
            reason = "It is in shadow mode: it is counted and reported, and refuses nobody."
            return Problem("shadow", reason, f"Take {self._name} out of `shadow`.")
        ways = self._ways(scene)
        if not ways and self._met(scene):
            reason = "Velocity is lifted for every key that it is about: it refuses nothing."
            return Problem("lifted", reason, "Wait, or take it back: `keys lift KEY --for 0`.")
        if not ways:
            reason = self._nobody or "No call meets it: embeddings have no sessions."
            return Problem("unreachable", reason, _REACH)
        tighter = {self._tighter(scene, way) for way in ways}
        if "" not in tighter:
            reason = f"{', '.join(sorted(tighter)[:3])} always refuses before it can."
            return Problem("hidden", reason, _LOWER)
        return None

    async def prove(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        way = next(way for way in self._ways(scene) if not self._tighter(scene, way))
        scene.rest()
        first = await scene.send(way.principal, way.name)
        if not first.sings:
            why = first.rule or first.code
            reason = f"Before it can count, every call is refused by {why}."
            return Problem("hidden", reason, "See to that first.")
        self._fill(scene, way)
        over = await scene.send(way.principal, way.name)
        scene.rest()
        if over.sings:
            return Problem("silent", "At its limit it let another call through.", BUG)
        if not over.rule.endswith(f":{self._name}"):
            return Problem("hidden", f"{over.rule or over.code} refuses first.", _LOWER)
        if not (await scene.send(way.principal, way.name)).sings:
            return Problem("silent", "It refused again after a long pause.", BUG)
        scene.rest()
        return None

    def _fill(self, scene: Scene, way: Way) -> None:
        """Count up to the limit, as calls would."""
        book = scene.gateway.brakes
        assert way.lane.brake is not None
        key = book.runs.key(way.lane.brake.owner, book.clock())
        scope, _, bound = self._name.partition("_")
        if scope == "velocity":
            bar = max(key.pace.bar(speed) for speed in way.lane.brake.speeds)
            key.pace.add(int(bar) + 1, book.clock())
            return
        run = key.run if scope == "key" else next(reversed(key.sessions.values()))
        if bound == "seconds":
            run.first = book.clock() - self._limit
        else:
            setattr(run, bound, self._limit)

    def _ways(self, scene: Scene) -> list[Way]:
        """The calls that it may refuse."""
        ways, now = self._met(scene), time.time()
        if self._name != _VELOCITY:
            return ways
        return [way for way in ways if way.lane.brake and way.lane.brake.lifted_until <= now]

    def _met(self, scene: Scene) -> list[Way]:
        """The calls that count in it."""
        return [
            way
            for way in scene.usable()
            if way.lane.brake is not None
            and (not self._level or any(each.id == self._level for each in way.principal.levels))
            and (not self._name.startswith("session") or way.lane.model.kind == "chat")
        ]

    def _tighter(self, scene: Scene, way: Way) -> str:
        """What always refuses such a call before this can; "" if nothing does."""
        names = {self._name, self._name.replace("session_", "key_")}
        if self._name.endswith("repeats"):
            names = {self._name}
        brakes: list[tuple[str, Brake]] = [("configuration", brake_of(scene.config.brake)[0])]
        brakes += [(each.id, each.brake) for each in way.principal.levels]
        for level, brake in brakes:
            for name in names:
                limit: Any = getattr(brake, name)
                if limit is not None and limit < self._limit and name not in brake.shadow:
                    if name == _VELOCITY and brake.velocity_factor > self._factor:
                        continue
                    return f"{level}:{name}"
        return ""


def brakes(scene: Scene) -> Iterator[BrakeSuspect]:
    """Of the configuration, and of organisations, teams, users and keys."""
    yield from _bounds(
        "configuration", "", brake_of(scene.config.brake)[0], "No key that works may use any model."
    )
    for kind, info in scene.callers.levels:
        nobody = nobody_calls(scene, kind, info) or "No model can be used by it."
        yield from _bounds(f"{kind} {info.name}", info.id, info.brake, nobody)


def _bounds(where: str, level: str, brake: Brake, nobody: str) -> Iterator[BrakeSuspect]:
    for name in BOUNDS:
        if getattr(brake, name) is not None:
            yield BrakeSuspect(where, level, name, brake, nobody)
