"""Replies that say how they came about: `x-llmgw-attempts` and `x-llmgw-deployment`, the name of
the last one tried and never its address; what they were charged: `x-llmgw-cost`; and what is left
of budgets. Chosen once for a configuration, so that whoever does not want it pays nothing.

The head of a stream says what is known when it leaves, at the status commit: never the cost, not
even where a whole reply is made a stream.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llmgw_core.pipeline.budget_headers import left
from llmgw_core.pipeline.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from llmgw_core.pipeline.delivery import Kind
    from llmgw_core.pipeline.exchange import Exchange

    Teller = Callable[[Exchange], Iterable[tuple[bytes, bytes]]]

ATTEMPTS, DEPLOYMENT, COST = b"x-llmgw-attempts", b"x-llmgw-deployment", b"x-llmgw-cost"
_NANO = 10**9


class TellingDelivery(Delivery):
    """Delivers with what `tellers` say of a call, in their order; replies that are errors say it,
    too."""

    def __init__(self, tellers: Sequence[Teller], **parts: Any) -> None:
        super().__init__(**parts)
        self._tellers = tuple(tellers)

    def rate_headers(self, exchange: Exchange) -> Sequence[tuple[bytes, bytes]]:
        """See the base."""
        return [*super().rate_headers(exchange), *self._told(exchange)]

    def _lines(self, exchange: Exchange, kind: Kind) -> bytes:
        told = (b"%b: %b\r\n" % field for field in self._told(exchange))
        return super()._lines(exchange, kind) + b"".join(told)

    def _told(self, exchange: Exchange) -> Iterator[tuple[bytes, bytes]]:
        for teller in self._tellers:
            yield from teller(exchange)


def revealing(*, routes: bool, costs: bool, budgets: bool) -> Callable[..., Delivery]:
    """What makes the delivery that tells `routes` (how a reply came about), `costs`, and what is
    left of `budgets`."""
    every = ((routes, tried), (costs, charged), (budgets, left))
    tellers = [teller for wanted, teller in every if wanted]
    return partial(TellingDelivery, tellers) if tellers else Delivery


def charged(exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
    """What the call was charged, once that is known: exact, in whole units of the currency of the
    books."""
    record = None if exchange.settlement is None else exchange.settlement.record
    if record is None or (record.stream and exchange.replied):  # in a stream, or before one
        return ()
    units, rest = divmod(record.charge, _NANO)
    return ((COST, b"%d.%09d" % (units, rest)),)


def tried(exchange: Exchange) -> Iterable[tuple[bytes, bytes]]:
    """How many attempts there were, and on which deployment the last one."""
    if exchange.settlement is None:
        return []
    attempts, deployment = exchange.settlement.tried
    fields = [(ATTEMPTS, b"%d" % attempts)]
    if deployment:
        # Names are what an operator likes; a header takes less.
        fields.append((DEPLOYMENT, quote(deployment, safe="/:@+,").encode()))
    return fields
