"""The attempts of a call: one candidate after the other until one delivers.

This is the only loop that goes from one deployment to the next, for complete replies and for
streams alike: whatever fails before the content commit ends up here, is classified, and the
routing policy says what happens. Foreign errors of the transport are mapped here.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from llmgw_core.backends.transport.port import Transport, TransportError
from llmgw_core.backends.transport.tunnel import refusal
from llmgw_core.domain.errors import permission_denied
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.limits.port import Exceeded
from llmgw_core.pipeline.demanding import demand_of
from llmgw_core.pipeline.failures import classified, let_go, stale
from llmgw_core.pipeline.patience import Patience
from llmgw_core.pipeline.recovery import Failed, Recovery, RecoveryParts
from llmgw_core.pipeline.usage_refusal import answered_unasked, unasked
from llmgw_core.pipeline.verdicts import deadline_exceeded, nobody
from llmgw_core.routing.course import Course
from llmgw_core.routing.plan import plan
from llmgw_core.routing.rest import ring_of
from llmgw_core.wire.retry_after import waiting_time

if TYPE_CHECKING:
    from llmgw_core.backends.port import Session
    from llmgw_core.backends.transport.port import UpstreamReply
    from llmgw_core.domain.call import Call, Headers
    from llmgw_core.domain.credential import Credential
    from llmgw_core.domain.deployment import Deployment, Timeouts
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.spending import Estimate
    from llmgw_core.pipeline.stats import Stats
    from llmgw_core.routing.balance import Member
    from llmgw_core.routing.plan import Candidates, Round
    from llmgw_core.routing.state import RoutingMemory

Deliver = Callable[["Exchange", "Session", "UpstreamReply"], Awaitable[None] | None]
"""Reads a 2xx reply and hands it to the client; returns what is to be awaited, None when it is
done. Raises `UpstreamFailure` or `TransportError` only as long as nothing of the content has been
handed over."""


class Attempts:
    """Runs the attempts of calls; one per gateway."""

    def __init__(
        self,
        *,
        host: PluginHost,
        transports: Mapping[str, Transport],
        memory: RoutingMemory,
        stats: Stats,
        reply_bytes: int,
        refuse_unpriced: bool,
        estimate: Estimate,
        wall_clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._host = host
        self._transports = transports
        self._memory = memory
        self._wall_clock = wall_clock
        self._recoveries = RecoveryParts(host, memory, stats, random)
        self._reply_bytes = reply_bytes
        self._refuse_unpriced = refuse_unpriced
        self._estimate = estimate

    async def run(self, exchange: Exchange, deliver: Deliver) -> None:
        """Try candidates until one delivers. Raises `UpstreamFailure` (a refusal, to be passed
        through) or `GatewayError` when none did."""
        settlement, lane, memory = exchange.settlement, exchange.lane, self._memory
        assert lane is not None
        assert settlement is not None
        found, joining = lane.candidates, lane.extra or lane.purse
        if self._host.authorize or not found.tiers:
            found = self._permitted(found, exchange.call)
        if lane.timed or exchange.call.deadline:
            self._set_deadline(exchange, found)
        course = Course(exchange.call, found, memory, exchange.reserved)
        refuse_unpriced = self._refuse_unpriced
        turn = exchange.turn
        member = course.advance() if turn is None else await turn.advance(course)
        if member is None:
            raise nobody(course)
        exchange.held_back = lane.trial is not None and course.held_back(lane.model.name)
        recovery: Recovery | None = None
        fresh = False
        spared: Deployment | None = None
        while True:
            deployment = member.deployment if spared is None or not fresh else spared
            price = settlement.begin(deployment, course.ticket)
            exchange.trial = course.trial
            credential = (
                ring_of(memory, deployment).pick(memory.clock())
                if deployment.credentials
                else deployment.credential
            )
            secret = credential.value
            try:
                if price is None and refuse_unpriced:
                    reason = f"{deployment.id} has no price at this time"
                    raise UpstreamFailure("unavailable", reason, ours=True)
                if joining:
                    await self._make_room(exchange, deployment)
                if exchange.call.deadline or deployment.streaming is not None:
                    await self._in_time(exchange, deployment, secret, fresh, deliver)
                else:
                    timeouts = deployment.timeouts
                    await self._attempt(exchange, deployment, secret, timeouts, fresh, deliver)
                course.answered(member, settlement.first_content, exchange.cut)
                keys = member.state.keys
                if keys is not None or deployment is spared:
                    unasked_call = exchange.call if deployment is spared else None
                    _served(member, credential, secret, course.began, unasked_call)
                return
            except TransportError as error:
                failure, dead, spared = classified(error), stale(error), None
                let_go(error)
            except UpstreamFailure as error:
                spared = unasked(error, deployment, exchange.call)
                failure, dead = error, spared is not None
                let_go(error)
            finally:
                course.leave(member)
            if recovery is None:
                recovery = self._recovery(exchange, course)
            failed = Failed(member, credential, secret, failure, dead, fresh)
            member, fresh = await recovery.after(failed)

    def rounds(self, exchange: Exchange) -> Iterator[Round]:
        """What a call would try, tier by tier. Changes nothing. Raises `GatewayError` 403 when
        plugins permit no candidate."""
        lane, call = exchange.lane, exchange.call
        assert lane is not None
        candidates = lane.candidates
        if self._host.authorize or not candidates.tiers:
            candidates = self._permitted(candidates, call)
        memory = self._memory
        # What time has done, whoever looks.
        memory.sweep(memory.clock())
        return plan(call, candidates, memory, exchange.reserved)

    def _set_deadline(self, exchange: Exchange, found: Candidates) -> None:
        """The call's own deadline, or the earlier one that its client has given."""
        now, call = self._memory.clock(), exchange.call
        own = now + found.patience()
        call.deadline = min(own, call.deadline) if call.deadline else own
        if call.deadline <= now:
            raise deadline_exceeded()

    def _recovery(self, exchange: Exchange, course: Course) -> Recovery:
        """For a call whose first attempt, which is still on the books, has failed. From here on it
        has a deadline in any case."""
        attempt, call = exchange.ticket.attempt, exchange.call
        if not call.deadline:
            started = self._memory.clock() if attempt is None else attempt.started
            call.deadline = started + course.found.patience()
        return Recovery(self._recoveries, exchange, course, call.deadline)

    def _permitted(self, found: Candidates, call: Call) -> Candidates:
        """The candidates, each fallback model asked about with the plugins' `authorize`."""
        names = {tier.model.name for tier in found.every_tier()}
        denied = [
            name
            for name in names
            if name != call.model and self._host.run_authorize(call, name) is not None
        ]
        found = found.without(denied)
        if not found.tiers:
            raise permission_denied("You may not use any deployment of the model.")
        return found

    async def _make_room(self, exchange: Exchange, deployment: Deployment) -> None:
        """Before another model is used, its own meters join the reservation; and a candidate may
        be dearer than what is reserved for."""
        lane = exchange.lane
        assert lane is not None
        assert exchange.reservation is not None
        if lane.purse is not None:
            self._estimate.afford(exchange, deployment)
        extra = lane.extra.get(deployment.model)
        if extra is None or deployment.model in exchange.metered:
            return
        try:
            if lane.demanding:
                settlement = exchange.ticket
                settlement.demanding = True
                tokens = settlement.input_tokens
                demand = demand_of(exchange.call, lane, tokens, exchange.reserved)
                await exchange.reservation.amend(exchange.reserved, extra, demand)
            else:
                await exchange.reservation.amend(exchange.reserved, extra)
        except Exceeded as error:
            raise UpstreamFailure(
                "rate_limited", f"meter {error.spec.id} is full", retry_after=error.retry_after
            ) from None
        exchange.metered = (*exchange.metered, deployment.model)

    async def _in_time(
        self,
        exchange: Exchange,
        deployment: Deployment,
        secret: str,
        fresh: bool,
        deliver: Deliver,
    ) -> None:
        """An attempt with a limit that is not the transport's."""
        patience = Patience(exchange, deployment, self._memory.clock)
        async with patience.held(exchange):
            await self._attempt(exchange, deployment, secret, patience.timeouts, fresh, deliver)

    async def _attempt(
        self,
        exchange: Exchange,
        deployment: Deployment,
        secret: str,
        timeouts: Timeouts,
        fresh: bool,
        deliver: Deliver,
    ) -> None:
        backend = self._host.backends[deployment.backend]
        origin = backend.origin(deployment)
        session = backend.begin(exchange.call, deployment, secret)
        transport = self._transports[deployment.id]
        sink, settlement = exchange.sink, exchange.settlement
        assert settlement is not None
        sent = settlement.sent
        if sink.gone or sink.on_gone is None:
            exchange.stop_when_gone()
        if deployment.on_disconnect == "drain":
            exchange.work_on_when_gone()
        requests = session.requests()
        for request in requests[:-1]:
            reply = await transport.send(origin, request, timeouts, fresh=fresh, on_sent=sent)
            try:
                await reply.read(self._reply_bytes)
            finally:
                reply.abort()
        reply = await transport.send(origin, requests[-1], timeouts, fresh=fresh, on_sent=sent)
        try:
            if not 200 <= reply.status < 300:
                if reply.status == 407:  # of the forward proxy, and nobody else's business
                    raise refusal(reply.status)
                body = await reply.read(self._reply_bytes)
                failure = session.error(reply.status, reply.headers, body)
                raise self._timed(failure, reply.headers)
            waiting = deliver(exchange, session, reply)
            if waiting is not None:
                await waiting
        except BaseException:
            # Whatever happened, cancellation included: the connection must not go back.
            reply.abort()
            raise

    def _timed(self, failure: UpstreamFailure, headers: Headers) -> UpstreamFailure:
        """`failure` with what its head says of when to come back; sessions know no clock."""
        if failure.retry_after is None and failure.kind in ("rate_limited", "overloaded"):
            failure.retry_after = waiting_time(
                headers, self._wall_clock(), resets=failure.kind == "rate_limited"
            )
        return failure


def _served(
    member: Member, credential: Credential, secret: str, began: float, unasked: Call | None
) -> None:
    """A credential that was refused may be good again; and a call that `unasked` is was tried
    without being asked for usage, which is remembered."""
    keys = member.state.keys
    if keys is not None and keys.refusals:
        keys.accept(credential, secret, began)
    if unasked is not None:
        answered_unasked(member, unasked)
