"""Budgets, as suspects: those that no call can use up, or that refuse every call, and a fallback
that cannot serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.doctor.limits import BUG
from llmgw_core.doctor.verdict import Problem
from llmgw_core.limits.budget_counts import Measure, decimal
from llmgw_core.limits.budgets import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.doctor.scene import Scene, Way
    from llmgw_core.domain.limits import Budget
    from llmgw_core.limits.budget_counts import Count
    from llmgw_core.limits.budgets import Line
    from llmgw_core.tenancy.records import LevelInfo

_WITHIN = {"day": ("day", "week", "month", "total"), "week": ("week", "total")}
"""Periods that surely contain one of that kind, in the same time zone."""


class BudgetSuspect:
    """One budget of one level; `id` is what decides about calls that it refuses."""

    def __init__(self, kind: str, info: LevelInfo, budget: Budget) -> None:
        self.where = f"{kind} {info.name}"
        self.what = in_words(budget)
        self._level = (kind, info.id)
        self._budget = budget
        self.id = f"budget {kind}:{info.id}:{budget.unit}:{budget.period}"

    def look(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        budget = self._budget
        if budget.shadow:
            reason = "It is in shadow: it is counted and told, and refuses nobody."
            return Problem("shadow", reason, "Set it without --shadow.")
        ways = self._ways(scene)
        if not ways:
            reason = "No key that works belongs to it, or none may use any model."
            return Problem("unreachable", reason, "Make a key, or grant a model.")
        costs = [self._need(scene, way) for way in ways]
        if not any(costs):
            reason = "Every model that its callers may use costs nothing, or has no price."
            return Problem("unreachable", reason, "Give prices, or count tokens.")
        least = min(cost for cost in costs if cost)
        if least > budget.amount:
            shown = decimal(least) if budget.unit == "money" else f"{least} tokens"
            reason = f"It is less than one short call needs ({shown}): it refuses every call."
            return Problem("unit", reason, "Is the amount right? Money is in whole units.")
        return self._hidden(ways) or self._useless(scene, ways, least)

    def _hidden(self, ways: list[Way]) -> Problem | None:
        """Smaller budgets, of which every call meets one, are always used up before."""
        budget = self._budget
        first: set[Line] = set()
        periods = _WITHIN.get(budget.period, (budget.period, "total"))
        for way in ways:
            assert way.lane.purse is not None
            smaller = [
                line
                for line in way.lane.purse.lines
                if line.budget.unit == budget.unit
                and line.budget.amount < budget.amount
                and line.budget.period in periods
                and line.budget.timezone in {budget.timezone, *_any_zone(line)}
                and not (line.budget.shadow or line.budget.fallback)
            ]
            if not smaller:
                return None
            first.add(min(smaller, key=lambda line: line.budget.amount))
        if sum(line.budget.amount for line in first) >= budget.amount:
            return None  # together they let it be used up
        names = ", ".join(sorted(map(name_of, first)))
        than = "is smaller and" if len(first) == 1 else "together are smaller and"
        return Problem(
            "hidden", f"{names} {than} always used up before.", "Lower it, or raise the other."
        )

    def _useless(self, scene: Scene, ways: list[Way], least: int) -> Problem | None:
        name = self._budget.fallback
        if not name:
            return None
        others = [way for way in scene.usable() if way.name == name and self._is_of(way)]
        if not others:
            reason = f"Its fallback {name} is no model that its callers may use: calls are refused."
            return Problem("unreachable", reason, f"Grant {name}, or name another model.")
        if min(self._need(scene, way) for way in others) >= least:
            reason = f"Its fallback {name} is not cheaper than what it stands in for."
            return Problem("unreachable", reason, "Name a cheaper model, best one without charge.")
        return None

    async def prove(self, scene: Scene) -> Problem | None:
        """See `Suspect`."""
        dear = [way for way in self._ways(scene) if self._need(scene, way)]
        way = min(dear, key=lambda way: self._need(scene, way))
        scene.rest()
        first = await scene.send(way.principal, way.name)
        if not first.sings:
            why = first.rule or first.code
            reason = f"Before it can count, every call is refused by {why}."
            return Problem("hidden", reason, "See to that first.")
        self._count(way).spent = self._budget.amount
        over = await scene.send(way.principal, way.name)
        scene.rest()
        if over.sings and not self._budget.fallback:
            return Problem("silent", "When it was used up it let a call through.", BUG)
        if not over.sings and over.rule != self.id and not self._budget.fallback:
            reason = f"When it was used up, {over.rule or over.code} refused."
            return Problem("hidden", reason, "See to that first.")
        return None

    def _ways(self, scene: Scene) -> list[Way]:
        return [way for way in scene.usable() if self._is_of(way)]

    def _is_of(self, way: Way) -> bool:
        return self._level in {(level.kind, level.id) for level in way.principal.levels}

    def _need(self, scene: Scene, way: Way) -> int:
        """What a short call needs of it."""
        need = scene.need(way)
        return need.money if self._budget.unit == "money" else need.tokens

    def _count(self, way: Way) -> Count:
        assert way.lane.purse is not None
        for line in way.lane.purse.lines:
            if (line.account.kind, line.account.id) == self._level:
                return line.account.counters[Measure.of(self._budget)].current
        raise LookupError(self.id)


def _any_zone(line: Line) -> tuple[str, ...]:
    """What has no end has no time zone either."""
    return () if line.budget.period != "total" else (line.budget.timezone,)


def in_words(budget: Budget) -> str:
    """`250 money per month`, `1000 tokens in total`."""
    amount = decimal(budget.amount) if budget.unit == "money" else str(budget.amount)
    when = "in total" if budget.period == "total" else f"per {budget.period}"
    return f"{amount} {budget.unit} {when}"


def budgets_of_levels(scene: Scene) -> Iterator[BudgetSuspect]:
    """Those of organisations, teams, users and keys."""
    for kind, info in scene.callers.levels:
        for budget in info.budgets:
            yield BudgetSuspect(kind, info, budget)
