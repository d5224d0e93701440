"""The brake for loops on the path of a call. Only lanes with a brake (`Lane.brake`) come here.

A call counts once, however many attempts it takes; what a plugin calls in the course of it is a
part of it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.limits.brake_book import Braked
from llmgw_core.limits.brake_rules import rules_of
from llmgw_core.pipeline.brake_reached import brake_reached
from llmgw_core.routing.strategies.affinity_keys import hashed, prefix_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.brake import Brake
    from llmgw_core.domain.call import Call
    from llmgw_core.limits.brake_book import BrakeBook
    from llmgw_core.limits.brake_rules import BrakeRules
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.lane import Lane
    from llmgw_core.pipeline.spending import Estimate


class BrakeSection(NamedTuple):
    """What the configuration says: the brake of every key, the header that names the session (lower
    case), and of what does so without it, how many bytes are looked at."""

    default: Brake
    header: bytes
    nbytes: int


class Braking:
    """One per generation."""

    def __init__(self, book: BrakeBook, section: BrakeSection, estimate: Estimate) -> None:
        self.book = book
        self._default, self._header, self._bytes = section
        self._estimate = estimate

    def rules(self, principal: Principal) -> BrakeRules | None:
        """What holds for a caller; None if there is nothing to watch."""
        last = principal.levels[-1]
        return rules_of(
            (last.kind, last.id), (self._default, *(level.brake for level in principal.levels))
        )

    async def reserve(
        self,
        exchange: Exchange,
        lane: Lane,
        input_tokens: int,
        further: Callable[[Exchange, Lane, int], Awaitable[None]],
    ) -> None:
        """Let a call in, of which `exchange.reserved` are the tokens, and then `further`. Raises
        `GatewayError`; a call that is refused has not counted."""
        call, rules = exchange.call, lane.brake
        assert rules is not None
        if call.subcall is not None:
            self.book.join(rules, call.id, call.subcall.parent)
        else:
            need = 0
            if rules.counts_money:
                need = self._estimate.first(call, lane, input_tokens, exchange.reserved).money
            try:
                self.book.begin(rules, call.id, *self._marks(rules, call), need)
            except Braked as error:
                raise brake_reached(error, rules.owner, self.book) from None
        try:
            await further(exchange, lane, input_tokens)
        finally:
            if exchange.settlement is None:
                self.book.cancel(call.id)

    def examine(self, rules: BrakeRules, call: Call) -> None:
        """Raise the `GatewayError` that the call would meet now, and count nothing."""
        try:
            self.book.examine(rules, *self._marks(rules, call))
        except Braked as error:
            raise brake_reached(error, rules.owner, self.book) from None

    def _marks(self, rules: BrakeRules, call: Call) -> tuple[int | None, bytes]:
        session = session_of(call, self._header, self._bytes) if rules.session else None
        return session, body_hash(call) if rules.compares else b""


def session_of(call: Call, header: bytes, nbytes: int) -> int | None:
    """What tells the sessions of one key apart: the value of `header`, else a hash of the first
    messages (and of tools), `nbytes` of each at most. None for embeddings without the header."""
    name = call.head.get(header)
    if name:
        return hashed(name)
    return None if call.endpoint == "embeddings" else prefix_key(call, nbytes, "")


def body_hash(call: Call) -> bytes:
    """The same for requests with the same fields, byte by byte and in the same order."""
    digest = blake2b(call.endpoint.encode(), digest_size=16)
    for name, raw in call.request.fields.items():
        key = name.encode(errors="surrogatepass")
        digest.update(b"%d %d " % (len(key), len(raw)))
        digest.update(key)
        digest.update(raw)
    return digest.digest()
