"""What the caller is told when a budget has no room: whose it is and when it begins anew. How much
it is, and who has spent it, is for operators."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import budget_exceeded, invalid_request
from llmgw_core.limits.budget_counts import decimal
from llmgw_core.limits.budgets import name_of
from llmgw_core.limits.periods import EVER, zone_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.limits.budgets import BudgetExceeded, Need, Purse

RESET = b"x-llmgw-budget-reset"
"""In refusals: the instant at which the budget begins anew, if it does."""
_PERIODS = {
    "day": "of the day",
    "week": "of the week",
    "month": "of the month",
    "total": "in total",
}


def budget_reached(error: BudgetExceeded) -> GatewayError:
    """The refusal; operators hear of the budget."""
    return _refusal(error).decided_by(f"budget {name_of(error.line)}")


def reset_of(error: BudgetExceeded) -> str:
    """When the period ends, as in `2026-12-01T00:00:00+01:00`; "" where it does not."""
    return moment_in(error.end_ns, error.line.budget.timezone) if error.resets else ""


def budget_sentences(purse: Purse, at_ns: int, need: Need) -> Iterator[str]:
    """What operators are told of the budgets that a call needs room in."""
    for line in purse.lines:
        budget, count = line.budget, line.counter.at(at_ns)
        money = budget.unit == "money"
        of, unit = (decimal, "") if money else (str, " tokens")
        left = budget.amount - count.spent - count.reserved
        shadow = " (in shadow: never refuses)" if budget.shadow else ""
        until = "" if count.end_ns == EVER else f" until {moment_in(count.end_ns, budget.timezone)}"
        yield (
            f"{name_of(line)} has {of(left)} of {of(budget.amount)}{unit} left{until}; the call"
            f" would reserve {of(need.money if money else need.tokens)}{shadow}"
        )


def moment_in(at_ns: int, timezone: str) -> str:
    """An instant as the clocks of a time zone show it, in ISO 8601."""
    moment = dt.datetime.fromtimestamp(at_ns // 10**9, dt.UTC)
    return moment.astimezone(zone_of(timezone)).isoformat()


def _refusal(error: BudgetExceeded) -> GatewayError:
    budget = error.line.budget
    whose = f"{budget.unit} budget of the {error.line.account.kind}"
    if error.never:
        return invalid_request(
            f"The request may need more than the whole {whose}."
            " Send less text or set a smaller max_tokens.",
            code="request_exceeds_limit",
        )
    reset = reset_of(error)
    then = f" It begins anew at {reset}." if reset else " It does not begin anew by itself."
    why = "is used up" if error.spent_out else "has no room: calls under way have reserved the rest"
    return budget_exceeded(
        f"The {whose} {_PERIODS[budget.period]} {why}.{then}",
        error.retry_after if reset or not error.spent_out else None,
        should_retry=not error.spent_out,
        headers=[(RESET, reset.encode())] if reset else (),
    )
