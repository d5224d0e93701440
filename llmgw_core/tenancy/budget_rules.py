"""What budgets are valid. Pure; gives them back as they are stored, or raises `TenancyError` with a
sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from llmgw_core.domain.limits import Budget, BudgetPeriod, BudgetUnit
from llmgw_core.limits.periods import known_zone
from llmgw_core.tenancy.errors import TenancyError

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST: Final = 20
"""Budgets of one level."""
LARGEST: Final = 10**18
"""The largest amount, in nano-units or tokens."""
_LARGEST_PERCENTAGE: Final = 1000
_MOST_ALERTS: Final = 20
_LONGEST_NAME: Final = 200


def budgets(values: Sequence[Budget]) -> list[dict[str, Any]] | None:
    """The budgets of one level; None without any."""
    if len(values) > MOST:
        raise TenancyError(f"There can be at most {MOST} budgets on one level.")
    seen: set[tuple[Any, ...]] = set()
    for each in values:
        _check(each)
        place = place_of(each)
        if place in seen:
            raise TenancyError(
                f"There are two budgets in {each.unit} by the {each.period} with the same reaction;"
                " only one could ever hold."
            )
        seen.add(place)
    return [msgspec.to_builtins(each) for each in values] or None


def place_of(budget: Budget) -> tuple[BudgetUnit, BudgetPeriod, bool, bool]:
    """What tells the budgets of one level apart: unit, period, and whether it refuses, leads to
    another model, or does neither. Setting one replaces that in its place."""
    return budget.unit, budget.period, bool(budget.fallback), budget.shadow


def _check(budget: Budget) -> None:
    if budget.unit not in get_args(BudgetUnit) or budget.period not in get_args(BudgetPeriod):
        raise TenancyError(
            f"A budget is in {' or '.join(get_args(BudgetUnit))},"
            f" per {', '.join(get_args(BudgetPeriod))}."
        )
    # A bool is an int to Python, but no number to anybody else.
    if type(budget.amount) is not int or not 1 <= budget.amount <= LARGEST:
        raise TenancyError(
            "The amount of a budget is more than 0, and not absurdly large; to stop all calls,"
            " disable the object."
        )
    if not known_zone(budget.timezone):
        raise TenancyError(
            f"'{budget.timezone[:100]}' is no time zone; write a name like Europe/Berlin or UTC."
        )
    alerts = budget.alerts
    whole = all(type(each) is int and 1 <= each <= _LARGEST_PERCENTAGE for each in alerts)
    if not whole or len(alerts) > _MOST_ALERTS or len(set(alerts)) != len(alerts):
        raise TenancyError(
            f"Alerts are at most {_MOST_ALERTS} different percentages"
            f" from 1 to {_LARGEST_PERCENTAGE}."
        )
    if len(budget.fallback) > _LONGEST_NAME or not budget.fallback.isprintable():
        raise TenancyError("The fallback of a budget is the name of a model.")
