"""Budgets on the path of a call: what it may cost, reserved before it begins and before a dearer
candidate is tried. Only lanes with a purse (`Lane.purse`) come here.

Rule of this file: nothing awaits between the question and the reservation. Budgets are asked before
the limiter, so that whoever is out of money hears of that; what one has given is given back when
the other has no room.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from msgspec.structs import replace

from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.usage import Usage
from llmgw_core.limits.budgets import BudgetExceeded, Need, name_of
from llmgw_core.pipeline.budget_reached import budget_reached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.limits.budgets import Hold, Purse
    from llmgw_core.limits.port import Reservation
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.lane import Lane

FALLBACK = b"x-llmgw-budget-fallback"
"""In replies by the model that a budget names for when it is used up: the name of that model."""


class Estimate:
    """What calls may be charged. One per generation."""

    __slots__ = ("_prices",)

    def __init__(self, prices: PriceBook) -> None:
        self._prices = prices

    def first(self, call: Call, lane: Lane, input_tokens: int, tokens: int) -> Need:
        """What a call with so many tokens of input, and `tokens` altogether, may need of whoever
        is tried first: at the dearest price there, so that another one of them needs no more."""
        return self.of(call, lane.candidates.tiers[0].deployments, input_tokens, tokens)

    def of(
        self, call: Call, deployments: Iterable[Deployment], input_tokens: int, tokens: int
    ) -> Need:
        """What it may need of the dearest of `deployments`: every token at the price of the
        dearest class that it may turn out to be of, which is sure only at the ordinary one."""
        request = call.request
        asked_for = request.max_tokens is not None
        input, output = Usage(input_tokens), max(0, tokens - input_tokens)
        money, sure = 0, 0
        seen: set[int] = set()
        for each in deployments:
            price = self._prices.price(each.model, each.id, call.started_ns)
            if price is None or id(price) in seen:
                continue
            seen.add(id(price))
            if price.images:
                input = input.with_images(request.images)
            whole = replace(input, output_tokens=output)
            most = price.most(whole, media=price.media and request.media)
            if most > money:
                money = most
                sure = price.charge(whole if asked_for else input)
        return Need(tokens, money, tokens if asked_for else input_tokens, sure)

    def afford(self, exchange: Exchange, deployment: Deployment) -> None:
        """Before an attempt: what earlier ones were charged and what `deployment` may cost must
        fit. Raises `UpstreamFailure`, so that the call goes on without this candidate."""
        reservation, settlement = exchange.reservation, exchange.ticket
        assert isinstance(reservation, Budgeted)
        need = self.of(
            exchange.call, (deployment,), settlement.input_tokens, exchange.reserved
        ).beside(settlement.charge)
        if need.money <= reservation.need.money:
            return
        try:
            reservation.hold.grow(need)
        except BudgetExceeded as error:
            reason = f"budget {name_of(error.line)} has no room for {deployment.id}"
            raise UpstreamFailure("unavailable", reason, ours=True) from None
        reservation.need = need


class Budgeted:
    """A reservation in a limiter and in budgets at once. Implements `limits.port.Reservation`."""

    __slots__ = ("_inner", "hold", "need")

    def __init__(self, inner: Reservation, hold: Hold, need: Need) -> None:
        self._inner = inner
        self.hold = hold
        self.need = need
        """What is reserved for."""

    async def amend(self, tokens: int, *more: Any) -> None:
        """Of the limiter only; what budgets reserve is amended before."""
        await self._inner.amend(tokens, *more)

    def settle(self, tokens: int, *more: Any) -> None:
        """See the port. What was charged, the book of budgets hears from settlement."""
        self._inner.settle(tokens, *more)
        self.hold.end()

    def release(self) -> None:
        """See the port."""
        self._inner.release()
        self.hold.end()


class Granted(NamedTuple):
    """What a call has: the `lane` that it takes, perhaps of the model that a budget names, its
    tokens of input, and what is reserved for which need."""

    lane: Lane
    input_tokens: int
    hold: Hold
    need: Need

    def around(self, inner: Reservation) -> Budgeted:
        """The same with what the limiter has reserved."""
        return Budgeted(inner, self.hold, self.need)

    def confirm(self) -> None:
        """The limiter has room as well: what was reserved and is needed no more goes back."""
        self.hold.shrink(self.need)


class Spending:
    """Reserves in budgets, and finds the model that serves when one is used up. `authorize` gives
    the lane for the model that a call asks for now, `demand` its tokens: of input, and all."""

    __slots__ = ("_authorize", "_demand", "estimate")

    def __init__(
        self,
        estimate: Estimate,
        authorize: Callable[[Exchange], Lane],
        demand: Callable[[Call, Lane], tuple[int, int]],
    ) -> None:
        self.estimate = estimate
        self._authorize = authorize
        self._demand = demand

    def reserve(self, exchange: Exchange, lane: Lane, input_tokens: int) -> Granted:
        """Reserve for a call of which `exchange.reserved` are the tokens. Raises `GatewayError`."""
        at_ns = exchange.call.started_ns

        def take(purse: Purse, need: Need) -> Hold:
            return purse.reserve(at_ns, need)

        return self._somewhere(exchange, lane, input_tokens, take)

    def amend(self, exchange: Exchange, lane: Lane, input_tokens: int) -> Granted:
        """The same for a call that has changed, and has reserved already. What it held stays
        reserved as far as that is more, until it is confirmed."""
        own = exchange.reservation
        assert isinstance(own, Budgeted)

        def take(_: Purse, need: Need) -> Hold:
            own.hold.grow(need)
            return own.hold

        granted = self._somewhere(exchange, lane, input_tokens, take)
        own.need = granted.need
        return granted

    def _somewhere(
        self,
        exchange: Exchange,
        lane: Lane,
        input_tokens: int,
        take: Callable[[Purse, Need], Hold],
    ) -> Granted:
        call, first, asked = exchange.call, lane, exchange.call.model
        tried = {asked, lane.model.name}
        refusal: BudgetExceeded | None = None
        while True:
            assert lane.purse is not None
            need = self.estimate.first(call, lane, input_tokens, exchange.reserved)
            try:
                hold = take(lane.purse, need)
            except BudgetExceeded as error:
                refusal = refusal or error
                instead = self._instead(exchange, error.line.budget.fallback, tried)
                if instead is None:
                    exchange.lane, call.model = first, asked
                    raise budget_reached(refusal) from None
                lane = instead
                input_tokens, exchange.reserved = self._demand(call, lane)
            else:
                return Granted(lane, input_tokens, hold, need)

    def _instead(self, exchange: Exchange, name: str, tried: set[str]) -> Lane | None:
        """The lane of the model that a budget names, if the caller may use it."""
        if not name or name in tried:
            return None
        tried.add(name)
        exchange.call.model = name
        try:
            lane = self._authorize(exchange)
        except GatewayError as error:
            error.let_go()
            return None
        exchange.lane = lane = _standing_in(lane, name)
        return lane


def _standing_in(lane: Lane, name: str) -> Lane:
    """The same lane, whose replies say that a budget has led there."""
    lane = copy.copy(lane)
    field = (FALLBACK, quote(name, safe="/:@+,").encode())
    lane.headers = (*lane.headers, field)
    lane.lines += b"%b: %b\r\n" % field
    return lane
