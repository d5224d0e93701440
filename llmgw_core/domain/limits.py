"""How much one level of the hierarchy, or one model, may use: limits by the minute and the day, and
budgets by the calendar. Values only; `limits` counts them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one level (or one model) may use. `None` = no limit of its own.

    `rpm`: admitted requests in any 60 seconds. `tpm`: tokens, input plus output, in any
    60 seconds. `parallel`: calls in flight at once. `rpd`, `tpd`: likewise in any 24 hours.
    `input_...` and `output_...`: tokens of input, or output, alone. `burst`: the limits by the
    minute are token buckets which hold so many seconds' worth, instead of sliding windows.
    `shadow`: names of those that are counted and reported, and never refuse.
    """

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None
    rpd: int | None = None
    tpd: int | None = None
    input_tpm: int | None = None
    output_tpm: int | None = None
    input_tpd: int | None = None
    output_tpd: int | None = None
    burst: float | None = None
    shadow: tuple[str, ...] = ()


NO_LIMITS = Limits()


def limits_of(
    rpm: int | None, tpm: int | None, parallel: int | None, more: dict[str, Any] | None
) -> Limits:
    """As a database has it: three columns, and the other fields as far as they are set."""
    if not more:
        return Limits(rpm, tpm, parallel)
    return msgspec.convert({"rpm": rpm, "tpm": tpm, "parallel": parallel, **more}, Limits)


BudgetUnit = Literal["money", "tokens"]
BudgetPeriod = Literal["day", "week", "month", "total"]


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one level may spend in each calendar period of `timezone` (weeks begin on Monday), or
    in total. `amount` is nano-units of what tenants are charged, or tokens (input plus output).

    `alerts`: percentages at which an event is raised, once per period. What would exceed the
    budget is refused, or served by `fallback`, a model, if one is named that is within all
    budgets. `shadow`: it is counted and reported, and never refuses."""

    unit: BudgetUnit
    amount: int
    period: BudgetPeriod
    timezone: str = "UTC"
    alerts: tuple[int, ...] = (50, 80, 100)
    fallback: str = ""
    shadow: bool = False
