"""The arithmetic behind the amounts of one row of the ledger, class by class. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.accounting.price_sheet import ClassAmount, PriceSheet  # noqa: TC001 -- fields
from llmgw_core.accounting.repricing import own_usage
from llmgw_core.domain.usage import UsageDetails

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.domain.usage import Usage, UsageRecord


class AttemptPrice(msgspec.Struct, frozen=True):
    """One attempt that used something. `price` is the id of its sheet, "" if it was booked without
    a price; `sheet` is None then, and where it is not known. `lines` multiply its rates with what
    was used: rounded once, they add up to `cost` and `charge` (nano-units), which are what is on
    the books."""

    deployment: str
    outcome: str
    price: str
    sheet: PriceSheet | None
    lines: list[ClassAmount]
    cost: int
    charge: int


def call_prices(record: UsageRecord, sheets: Mapping[str, PriceSheet]) -> list[AttemptPrice]:
    """The attempts of `record` that used something, in order; `sheets` by id."""
    found = []
    for index, attempt in enumerate(record.attempts):
        failed = attempt.usage is not None
        usage = attempt.usage if failed else own_usage(record, index)
        if usage is None or usage.source == "none":
            continue
        sheet = sheets.get(attempt.price)
        calls = 0 if failed else -1 if record.entry == "reversal" else 1
        found.append(
            AttemptPrice(
                attempt.deployment,
                attempt.outcome,
                attempt.price,
                sheet,
                [] if sheet is None else sheet.amounts_by_class(quantities(usage, calls)),
                attempt.cost,
                attempt.charge,
            )
        )
    return found


def quantities(usage: Usage, calls: int) -> dict[str, int]:
    """A usage by the columns that sums have."""
    details = msgspec.structs.asdict(usage.details or UsageDetails())
    return {
        "calls": calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        **details,
    }
