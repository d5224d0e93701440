"""From a head to an admitted call: who calls, what they ask for, whether they may, whether now.

Everything here costs nobody anything: a call that does not get through leaves no trace but a
counter.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from llmgw_core.domain.errors import (
    GatewayError,
    invalid_request,
    model_not_found,
    model_retired,
    overloaded,
    permission_denied,
    unsupported_media_type,
)
from llmgw_core.limits.port import Exceeded
from llmgw_core.pipeline.braking import Braking
from llmgw_core.pipeline.callers import check_levels, check_principal, presented_key
from llmgw_core.pipeline.demanding import demand_of
from llmgw_core.pipeline.lane import NO_PRICE, Lanes
from llmgw_core.pipeline.limit_reached import limit_reached
from llmgw_core.pipeline.spending import Estimate, Spending
from llmgw_core.pipeline.timeout_header import TIMEOUT, seconds_of
from llmgw_core.pipeline.zones import ZONE, ZoneHeader
from llmgw_core.wire.life import life_headers
from llmgw_core.wire.request import BASE64_TOKENS, decode_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from llmgw_core.access.principals import CachedPrincipal, PrincipalCache
    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Body, Call
    from llmgw_core.domain.deployment import Model
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.limits.port import Limiter, Reservation
    from llmgw_core.pipeline.books import Books
    from llmgw_core.pipeline.braking import BrakeSection
    from llmgw_core.pipeline.budget_keeper import BudgetKeeper
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.lane import Lane
    from llmgw_core.pipeline.switchboard import Switchboard
    from llmgw_core.routing.plan import Roster
    from llmgw_core.routing.rollouts import LiveRollouts

GIVEN_PRINCIPALS = 10_000
"""Principals from plugins and applications whose lanes are kept, the most recently used."""


class Admission:
    """Steps 1 to 4 of a call; one per gateway."""

    def __init__(
        self,
        *,
        host: PluginHost,
        principals: PrincipalCache,
        models: Mapping[str, Model],
        limiter: Limiter,
        prices: PriceBook,
        rollouts: LiveRollouts,
        books: Books,
        budgets: BudgetKeeper,
        brakes: BrakeSection,
        body_bytes: int,
        refuse_unpriced: bool,
        switchboard: Switchboard,
        roster: Roster,
    ) -> None:
        self._switchboard = switchboard
        self._host = host
        self._principals = principals
        self._models = models
        self._limiter = limiter
        self._reserve_now: Callable[..., Reservation] | None
        self._reserve_now = getattr(limiter, "reserve_now", None)
        self._prices = prices
        self._rollouts = rollouts
        self._zones = ZoneHeader(models.values())
        self._books = books
        self._budgets = budgets
        self.spending = Spending(Estimate(prices), self.authorize, self.demand)
        self.braking = Braking(books.brakes, brakes, self.spending.estimate)
        self._counted = books.estimates.counted
        self._body_bytes = body_bytes
        self._refuse_unpriced = refuse_unpriced
        self._roster = roster
        self._known: OrderedDict[Principal, Lanes] = OrderedDict()

    # What may have to wait is a plain function that returns what is to be awaited, or None when
    # it is done: nearly always it is, and a coroutine for nothing costs more than the step.

    def authenticate(self, exchange: Exchange) -> Awaitable[None] | None:
        """Who calls. Nothing of the body has been read yet."""
        call, host = exchange.call, self._host
        if host.pre_auth or host.authenticate or call.principal is not None:
            return self._ask_who(exchange)
        key = presented_key(call.head)
        entry = self._principals.lookup(key)
        if entry is None:
            return self._resolve(exchange, key)
        return self._recognize(exchange, entry)

    async def _ask_who(self, exchange: Exchange) -> None:
        call, host = exchange.call, self._host
        if host.pre_auth:
            call.head = await host.run_pre_auth(call.head, call)
        if host.authenticate and call.principal is None:
            call.principal = await host.run_authenticate(call.head, call)
        if call.principal is not None:
            check_principal(call.principal, call.started_ns / 1e9)
            exchange.lanes = await self._given(call.principal)
            return
        key = presented_key(call.head)
        await self._resolve(exchange, key)

    async def _resolve(self, exchange: Exchange, key: str) -> None:
        entry = self._principals.lookup(key) or await self._principals.resolve(key)
        waiting = self._recognize(exchange, entry)
        if waiting is not None:
            await waiting

    def _recognize(self, exchange: Exchange, entry: CachedPrincipal) -> Awaitable[None] | None:
        exchange.call.principal = entry.principal
        lanes: Lanes | None = entry.derived
        # The cache outlives a configuration; lanes do not.
        if lanes is None or lanes.models is not self._models:
            if self._budgets.lacking(entry.principal):
                return self._recognize_later(exchange, entry)
            lanes = entry.derived = self._lanes(entry.principal)
        exchange.lanes = lanes
        return None

    async def _recognize_later(self, exchange: Exchange, entry: CachedPrincipal) -> None:
        """As soon as it is known what has been spent."""
        await self._budgets.ready(entry.principal)
        waiting = self._recognize(exchange, entry)
        if waiting is not None:  # the configuration was changed meanwhile, or the budgets were
            await waiting

    async def recognize(self, exchange: Exchange) -> None:
        """As `authenticate`, without asking any plugin."""
        call = exchange.call
        if call.principal is None:
            call.principal = (await self._principals.resolve(presented_key(call.head))).principal
        check_principal(call.principal, call.started_ns / 1e9)
        exchange.lanes = await self._given(call.principal)

    def read(self, exchange: Exchange, body: Body) -> Awaitable[None] | None:
        """Read the request and decode it shallowly."""
        head = exchange.call.head
        fields = head.index or head.fields
        kind = fields.get(b"content-type")
        if kind is not None and kind != b"application/json" and not _is_json(kind):
            raise unsupported_media_type("The content type must be application/json.")
        coding = fields.get(b"content-encoding")
        if coding is not None and coding.strip().lower() not in (b"", b"identity"):
            # A few bytes may unpack to gigabytes, and request bodies hardly ever are compressed.
            raise unsupported_media_type(
                "The request body must not be compressed.", headers=_ACCEPTED_CODING
            )
        if TIMEOUT in fields:
            exchange.call.deadline = exchange.call.started + seconds_of(head)
        arrived: Callable[[int], bytes | None] | None = getattr(body, "arrived", None)
        data = None if arrived is None else arrived(self._body_bytes)
        if data is None:
            return self._read(exchange.call, body)
        call = exchange.call
        request = call.request = decode_request(data, call.endpoint)
        call.asked = call.model = request.model
        return None

    async def _read(self, call: Call, body: Body) -> None:
        request = call.request = decode_request(await body.read(self._body_bytes), call.endpoint)
        call.asked = call.model = request.model

    def authorize(self, exchange: Exchange) -> Lane:
        """The lane for the model that is asked for. A model that does not exist and one that is
        not granted look the same."""
        call, lanes = exchange.call, exchange.lanes
        assert lanes is not None
        if ZONE in (call.head.index or call.head.fields):
            lanes = self._zones.narrow(lanes, call.head)
        lane = lanes.lane(call.model)
        if lane is None:
            raise model_not_found(call.asked).decided_by(_lacking(call, lanes))
        if self._switchboard.gate is not None:
            lane = self._switchboard.gate.pass_through(call, lanes, lane)
        wanted = "chat" if call.endpoint == "chat.completions" else "embedding"
        if lane.model.kind != wanted:
            raise invalid_request(
                f"The model '{call.asked}' does not serve this endpoint.",
                param="model",
                code="unsupported_model",
            )
        if self._host.authorize:
            denial = self._host.run_authorize(call, call.model)
            if denial is not None:
                raise permission_denied(denial).decided_by("a plugin's authorize")
        if lane.choice is not None:
            lane = lane.choice.lane(call) or lane
        if not lane.candidates.tiers:
            raise _nobody(lane, lanes)
        exchange.lane = lane
        return lane

    def visible(self, exchange: Exchange) -> list[Model]:
        """The models that may be used: granted, servable, and no plugin objects."""
        assert exchange.lanes is not None
        lanes = exchange.lanes
        if ZONE in exchange.call.head.fields:
            lanes = self._zones.narrow(lanes, exchange.call.head)
        models = lanes.visible()
        if not self._host.authorize:
            return models
        ask, call = self._host.run_authorize, exchange.call
        return [model for model in models if ask(call, model.name) is None]

    def reserve(self, exchange: Exchange) -> Awaitable[None] | None:
        """One atomic reservation over every meter that applies. From here on the call is on the
        books, whatever happens to it."""
        lane, call = exchange.lane, exchange.call
        assert lane is not None
        if not self._books.journal.healthy:
            raise overloaded("The gateway cannot keep its books at the moment.", retry_after=1.0)
        input_tokens, tokens = self.demand(call, lane)
        exchange.reserved = tokens
        if not lane.plain or self._reserve_now is None:
            if lane.brake is not None:
                return self.braking.reserve(exchange, lane, input_tokens, self._reserve)
            return self._reserve(exchange, lane, input_tokens)
        try:
            reservation = self._reserve_now(lane.bound, tokens)
        except Exceeded as error:
            raise limit_reached(error, tokens) from None
        exchange.reservation = reservation
        exchange.settlement = self._books.admit(exchange, reservation, input_tokens)
        return None

    async def _reserve(self, exchange: Exchange, lane: Lane, input_tokens: int) -> None:
        """The same with a limiter that may have to wait, with meters that not all have, or with
        budgets."""
        granted = None
        if lane.purse is not None:
            granted = self.spending.reserve(exchange, lane, input_tokens)
            lane, input_tokens = granted.lane, granted.input_tokens
        tokens, demand = exchange.reserved, None
        if lane.demanding:
            demand = demand_of(exchange.call, lane, input_tokens, tokens)
        try:
            if demand is None:
                exchange.reservation = await self._limiter.reserve(lane.bound, tokens)
            else:
                exchange.reservation = await self._limiter.reserve(lane.bound, tokens, demand)
        except Exceeded as error:
            raise limit_reached(error, tokens, demand) from None
        finally:
            if granted is not None and exchange.reservation is None:
                granted.hold.end()
        if granted is not None:
            exchange.reservation = granted.around(exchange.reservation)
        exchange.settlement = self._books.admit(exchange, exchange.reservation, input_tokens)
        exchange.settlement.demanding = lane.demanding

    async def amend(self, exchange: Exchange) -> None:
        """A hook has changed the request: authorise and reserve for what it is now."""
        call, before = exchange.call, exchange.lane
        assert exchange.reservation is not None
        lane = self.authorize(exchange)
        input_tokens, tokens = self.demand(call, lane)
        exchange.reserved = tokens
        granted = None
        if lane.purse is not None:
            granted = self.spending.amend(exchange, lane, input_tokens)
            lane, input_tokens, tokens = granted.lane, granted.input_tokens, exchange.reserved
        exchange.ticket.input_tokens = input_tokens
        extra = None if lane is before else lane.bound
        demand = None
        try:
            if lane.demanding or exchange.ticket.demanding:
                exchange.ticket.demanding = True
                demand = demand_of(call, lane, input_tokens, tokens)
                await exchange.reservation.amend(tokens, extra, demand)
            else:
                await exchange.reservation.amend(tokens, extra)
        except Exceeded as error:
            raise limit_reached(error, tokens, demand) from None
        if granted is not None:
            granted.confirm()

    def demand(self, call: Call, lane: Lane) -> tuple[int, int]:
        """Tokens of input, and tokens to reserve: input plus the bound of the output that the
        client gave. Without a bound the expected output is a guess, which must not make a call
        impossible that may fit."""
        request, estimator = call.request, self._books.estimator
        input_tokens = request.exact_tokens
        if input_tokens is None:
            if self._counted:
                input_tokens = self._books.estimates.input_tokens(lane.model.name, request)
            else:
                input_tokens = estimator.input_tokens(lane.model.name, request.text_bytes)
                input_tokens += request.embedded * BASE64_TOKENS
        if request.max_tokens is not None:
            return input_tokens, input_tokens + request.max_tokens
        tokens = input_tokens + estimator.expected_output(lane.model.name) * request.choices
        if lane.token_limit is not None and input_tokens <= lane.token_limit < tokens:
            tokens = lane.token_limit
        return input_tokens, tokens

    async def _given(self, principal: Principal) -> Lanes:
        """The lanes of a principal that is no entry of the cache of keys."""
        known = self._known
        lanes = known.get(principal)
        if lanes is None:
            check_levels(principal)
            await self._budgets.ready(principal)
            lanes = known[principal] = self._lanes(principal, given=True)
            if len(known) > GIVEN_PRINCIPALS:
                known.popitem(last=False)
        else:
            known.move_to_end(principal)
        return lanes

    def forget_lanes(self) -> None:
        """What was compiled for principals from plugins and applications is out of date."""
        self._known.clear()

    def _lanes(self, principal: Principal, *, given: bool = False) -> Lanes:
        self._switchboard.refuse_team(principal.team_id)
        return Lanes(
            principal,
            self._models,
            self._limiter,
            self._prices,
            self._roster,
            self._rollouts,
            refuse_unpriced=self._refuse_unpriced,
            purse=self._budgets.book.purse(principal, given=given),
            brake=self.braking.rules(principal),
        )


_ACCEPTED_CODING = ((b"accept-encoding", b"identity"),)


def _is_json(kind: bytes) -> bool:
    return kind.partition(b";")[0].rstrip().lower().endswith(b"json")


def _lacking(call: Call, lanes: Lanes) -> str:
    """Why there is no lane for the model of `call`, for operators: callers hear of what they have
    asked for only."""
    decision = lanes.access.may_use(call.model)
    rule = "no such model is configured" if decision.allowed else decision.rule
    return rule if call.model == call.asked else f"{call.model}, for which a plugin asks: {rule}"


def absent(name: str, lanes: Lanes) -> GatewayError:
    """Why there is no model object of that name."""
    lane = lanes.lane(name)
    if lane is not None and lane.name.life.state == "retired":
        return _nobody(lane, lanes)
    return model_not_found(name)


def _nobody(lane: Lane, lanes: Lanes) -> GatewayError:
    """Why nobody may serve a model that is granted."""
    name = lane.name
    if name.life.state == "retired":
        successor = lanes.successor(name)
        headers = life_headers(name.life, successor=bool(successor))
        return model_retired(name.name, successor, headers=headers)
    if any(dropped.reason == NO_PRICE for dropped in lane.candidates.dropped):
        return overloaded(
            "The model cannot be served: it has no price.",
            code="model_unpriced",
            should_retry=False,
        )
    reasons = "; ".join(f"{each.deployment}: {each.reason}" for each in lane.candidates.dropped)
    what = "No deployment of the model is in a zone that you may use."
    if lane.choice is not None:
        what = "You may not use any of the models that this name leads to."
    error = permission_denied(what)
    return error.decided_by(reasons)
