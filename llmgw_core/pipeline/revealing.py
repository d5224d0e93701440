"""Replies that say how they came about: `x-llmgw-attempts` and `x-llmgw-deployment`, the name of
the last one tried and never its address. Chosen once for a configuration, so that whoever does not
want it pays nothing.

The head of a stream says what is known when it leaves, at the status commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from llmgw_core.pipeline.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.pipeline.delivery import Kind
    from llmgw_core.pipeline.exchange import Exchange

ATTEMPTS, DEPLOYMENT = b"x-llmgw-attempts", b"x-llmgw-deployment"


class RevealingDelivery(Delivery):
    """Delivers with these headers."""

    def rate_headers(self, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
        """See the base; replies that are errors say it, too."""
        return [*super().rate_headers(exchange), *_tried(exchange)]

    def _lines(self, exchange: Exchange, kind: Kind) -> bytes:
        fields = _tried(exchange)
        return super()._lines(exchange, kind) + b"".join(b"%b: %b\r\n" % pair for pair in fields)


def _tried(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    if exchange.settlement is None:
        return []
    attempts, deployment = exchange.settlement.tried
    fields = [(ATTEMPTS, b"%d" % attempts)]
    if deployment:
        # Names are what an operator likes; a header takes less.
        fields.append((DEPLOYMENT, quote(deployment, safe="/:@+,").encode()))
    return fields
