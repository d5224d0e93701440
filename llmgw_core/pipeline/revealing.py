"""Replies that say how they came about: `x-llmgw-attempts` and `x-llmgw-deployment`, the name of
the last one tried and never its address; and what they were charged: `x-llmgw-cost`. Chosen once
for a configuration, so that whoever does not want it pays nothing.

The head of a stream says what is known when it leaves, at the status commit: never the cost, not
even where a whole reply is made a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from llmgw_core.pipeline.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.pipeline.delivery import Kind
    from llmgw_core.pipeline.exchange import Exchange

ATTEMPTS, DEPLOYMENT, COST = b"x-llmgw-attempts", b"x-llmgw-deployment", b"x-llmgw-cost"
_NANO = 10**9


class RevealingDelivery(Delivery):
    """Delivers with these headers."""

    def rate_headers(self, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
        """See the base; replies that are errors say it, too."""
        return [*super().rate_headers(exchange), *_tried(exchange)]

    def _lines(self, exchange: Exchange, kind: Kind) -> bytes:
        fields = _tried(exchange)
        return super()._lines(exchange, kind) + b"".join(b"%b: %b\r\n" % pair for pair in fields)


class CostDelivery(Delivery):
    """Delivers with what the call was charged, once that is known: exact, in whole units of the
    currency of the books."""

    def rate_headers(self, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
        """See the base; replies that are errors say it, too."""
        cost = _charged(exchange)
        return [*super().rate_headers(exchange), *([(COST, cost)] if cost else [])]

    def _lines(self, exchange: Exchange, kind: Kind) -> bytes:
        lines = super()._lines(exchange, kind)
        cost = _charged(exchange)
        return lines + b"%b: %b\r\n" % (COST, cost) if cost else lines


class RevealingCostDelivery(CostDelivery, RevealingDelivery):
    """Both."""


def revealing(*, routes: bool, costs: bool) -> type[Delivery]:
    """The delivery that tells `routes` (how a reply came about) and `costs`."""
    if costs:
        return RevealingCostDelivery if routes else CostDelivery
    return RevealingDelivery if routes else Delivery


def _charged(exchange: Exchange) -> bytes:
    record = None if exchange.settlement is None else exchange.settlement.record
    if record is None or (record.stream and exchange.replied):  # in a stream, or before one
        return b""
    units, rest = divmod(record.charge, _NANO)
    return b"%d.%09d" % (units, rest)


def _tried(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    if exchange.settlement is None:
        return []
    attempts, deployment = exchange.settlement.tried
    fields = [(ATTEMPTS, b"%d" % attempts)]
    if deployment:
        # Names are what an operator likes; a header takes less.
        fields.append((DEPLOYMENT, quote(deployment, safe="/:@+,").encode()))
    return fields
