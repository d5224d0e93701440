"""Replies that say what is left of the caller's budgets: `x-llmgw-budget-remaining-money` (units of
the currency) and `x-llmgw-budget-remaining-tokens`, each of the tightest budget that may refuse.
Chosen once for a configuration, so that whoever does not want it pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.limits.budget_counts import decimal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.pipeline.delivery import Delivery, Kind
    from llmgw_core.pipeline.exchange import Exchange

MONEY, TOKENS = b"x-llmgw-budget-remaining-money", b"x-llmgw-budget-remaining-tokens"


def telling_budgets(kind: type[Delivery]) -> type[Delivery]:
    """The same delivery with these headers."""

    class Telling(kind):  # type: ignore[valid-type, misc]
        def rate_headers(self, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
            return [*super().rate_headers(exchange), *_left(exchange)]

        def _lines(self, exchange: Exchange, kind: Kind) -> bytes:
            lines: bytes = super()._lines(exchange, kind)
            return lines + b"".join(b"%b: %b\r\n" % pair for pair in _left(exchange))

    return Telling


def _left(exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
    lane = exchange.lane
    if lane is None or lane.purse is None:
        return
    least: dict[str, int] = {}
    for line, left in lane.purse.remaining(exchange.call.started_ns):
        unit = line.budget.unit
        least[unit] = min(left, least.get(unit, left))
    if "money" in least:
        yield MONEY, decimal(least["money"]).encode()
    if "tokens" in least:
        yield TOKENS, b"%d" % least["tokens"]
