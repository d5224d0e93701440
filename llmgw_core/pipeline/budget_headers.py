"""Replies that say what is left of the caller's budgets: `x-llmgw-budget-remaining-money` (units of
the currency) and `x-llmgw-budget-remaining-tokens`, each of the tightest budget that may refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.limits.budget_counts import decimal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.pipeline.exchange import Exchange

MONEY, TOKENS = b"x-llmgw-budget-remaining-money", b"x-llmgw-budget-remaining-tokens"


def left(exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
    """The header fields of a reply to a call."""
    lane = exchange.lane
    if lane is None or lane.purse is None:
        return
    least: dict[str, int] = {}
    for line, rest in lane.purse.remaining(exchange.call.started_ns):
        unit = line.budget.unit
        least[unit] = min(rest, least.get(unit, rest))
    if "money" in least:
        yield MONEY, decimal(least["money"]).encode()
    if "tokens" in least:
        yield TOKENS, b"%d" % least["tokens"]
