"""The attempts of a call: one candidate after the other until one delivers.

This is the only loop that goes from one deployment to the next, for complete replies and for
streams alike: whatever fails before the content commit ends up here, is classified, and the
routing policy says what happens. Foreign errors of the transport are mapped here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from llmgw_core.backends.transport.port import Transport, TransportError
from llmgw_core.backends.transport.tunnel import refusal
from llmgw_core.domain.errors import GatewayError, overloaded, permission_denied, upstream_failed
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.limits.port import Exceeded
from llmgw_core.pipeline.failures import classified, report, stale
from llmgw_core.routing.course import Course
from llmgw_core.routing.plan import plan
from llmgw_core.routing.policy import next_step
from llmgw_core.wire.refusal import HIDDEN, refusal_body

if TYPE_CHECKING:
    from llmgw_core.backends.port import Session
    from llmgw_core.backends.transport.port import UpstreamReply
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.credential import Credential
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.routing.plan import Candidates, Round
    from llmgw_core.routing.state import RoutingMemory

Deliver = Callable[["Exchange", "Session", "UpstreamReply"], Awaitable[None]]
"""Reads a 2xx reply and hands it to the client. Raises `UpstreamFailure` or `TransportError`
only as long as nothing of the content has been handed over."""


class Attempts:
    """Runs the attempts of calls; one per gateway."""

    def __init__(
        self,
        *,
        host: PluginHost,
        transports: Mapping[str, Transport],
        memory: RoutingMemory,
        budget: int,
        reply_bytes: int,
        refuse_unpriced: bool,
    ) -> None:
        self._host = host
        self._transports = transports
        self._memory = memory
        self._budget = budget
        self._reply_bytes = reply_bytes
        self._refuse_unpriced = refuse_unpriced

    async def run(self, exchange: Exchange, deliver: Deliver) -> None:
        """Try candidates until one delivers. Raises `UpstreamFailure` of kind `client` (to be
        passed through) or `GatewayError` when none did."""
        settlement, call = exchange.ticket, exchange.call
        lane = exchange.lane
        assert lane is not None
        candidates, extra = lane.candidates, lane.extra
        if self._host.authorize or not candidates.tiers:
            candidates = self._permitted(candidates, call)
        course = Course(call, candidates, self._memory, exchange.reserved)
        left = candidates.count - 1
        refuse_unpriced = self._refuse_unpriced
        member = course.advance()
        if member is None:
            raise _verdict(_nobody(course))
        fresh = False
        while True:
            deployment = member.deployment
            price = settlement.begin(deployment, course.ticket)
            try:
                if price is None and refuse_unpriced:
                    raise UpstreamFailure(
                        "unavailable", f"{deployment.id} has no price at this time"
                    )
                if extra:
                    await self._make_room(exchange, deployment)
                await self._attempt(exchange, deployment, settlement.sent, fresh, deliver)
                course.answered(member, settlement.first_content)
                return
            except TransportError as error:
                again = stale(error) and not fresh
                failure = classified(error)
            except UpstreamFailure as error:
                again = error.status == 401 and not fresh and await _renewed(deployment.credential)
                failure = error
            finally:
                course.leave(member)
            step = next_step(
                failure.kind,
                stale_connection=again,
                committed=exchange.replied and bool(settlement.first_content),
                attempts=settlement.attempts + 1,
                budget=self._budget,
                candidates_left=left,
            )
            if step == "again" and course.again(member):
                settlement.forget()
                fresh = True
                continue
            course.failed(member, failure.kind)
            report(call.id, deployment.id, failure)
            settlement.failed(failure.kind, failure.status)
            if step == "stop":
                if failure.kind == "client":
                    raise self._told(failure, call, deployment)
                raise _verdict(failure)
            fresh = False
            left -= 1
            member = course.advance()
            if member is None:
                raise _verdict(failure)

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

    def _told(
        self, failure: UpstreamFailure, call: Call, deployment: Deployment
    ) -> UpstreamFailure:
        """A refusal in the upstream's words, without those that are not for callers."""
        try:
            host = self._host.backends[deployment.backend].origin(deployment).host
        except UpstreamFailure:  # it was there a moment ago
            host = ""
        words = {
            deployment.credential.value: HIDDEN,
            deployment.upstream_model: call.model,
            host: HIDDEN,
        }
        failure.body = refusal_body(failure.body, call.id, words)
        return failure

    def _permitted(self, found: Candidates, call: Call) -> Candidates:
        """The candidates, each fallback model asked about with the plugins' `authorize`."""
        names = (tier.model.name for tier in found.tiers)
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
        """Before another model is used, its own meters join the reservation."""
        lane = exchange.lane
        assert lane is not None
        assert exchange.reservation is not None
        extra = lane.extra.get(deployment.model)
        if extra is None or deployment.model in exchange.metered:
            return
        try:
            await exchange.reservation.amend(exchange.reserved, extra)
        except Exceeded as error:
            raise UpstreamFailure(
                "rate_limited", f"meter {error.spec.id} is full", retry_after=error.retry_after
            ) from None
        exchange.metered.add(deployment.model)

    async def _attempt(
        self,
        exchange: Exchange,
        deployment: Deployment,
        sent: Callable[[], None],
        fresh: bool,
        deliver: Deliver,
    ) -> None:
        backend = self._host.backends[deployment.backend]
        origin = backend.origin(deployment)
        session = backend.begin(exchange.call, deployment, deployment.credential.value)
        transport = self._transports[deployment.id]
        sink = exchange.sink
        if sink.gone or sink.on_gone is None:
            exchange.stop_when_gone()
        if deployment.on_disconnect == "drain":
            exchange.work_on_when_gone()
        *before, last = session.requests()
        for request in before:
            reply = await transport.send(
                origin, request, deployment.timeouts, fresh=fresh, on_sent=sent
            )
            try:
                await reply.read(self._reply_bytes)
            finally:
                reply.abort()
        reply = await transport.send(origin, last, deployment.timeouts, fresh=fresh, on_sent=sent)
        try:
            if not 200 <= reply.status < 300:
                if reply.status == 407:  # of the forward proxy, and nobody else's business
                    raise refusal(reply.status)
                body = await reply.read(self._reply_bytes)
                raise session.error(reply.status, reply.headers, body)
            await deliver(exchange, session, reply)
        except BaseException:
            # Whatever happened, cancellation included: the connection must not go back.
            reply.abort()
            raise


async def _renewed(credential: Credential) -> bool:
    """Whether there is another secret than the one that was just refused."""
    refused = credential.value
    return credential.invalidate() and await credential.get() != refused


def _nobody(course: Course) -> UpstreamFailure:
    """That there is no deployment to begin with: all are switched off, or at their caps."""
    wait = course.room_in()
    if wait is None:
        return UpstreamFailure("unavailable", "every deployment is switched off")
    return UpstreamFailure("rate_limited", "every deployment is at its caps", retry_after=wait)


def _verdict(failure: UpstreamFailure) -> GatewayError:
    """What the caller is told when the last candidate failed like this."""
    after = failure.retry_after
    match failure.kind:
        case "unavailable" | "connect":
            return overloaded(
                "The model is not available at the moment.",
                code="upstream_unavailable",
                retry_after=after,
            )
        case "overloaded":
            return overloaded(
                "The model is overloaded.", code="upstream_overloaded", retry_after=after
            )
        case "rate_limited":
            return GatewayError(
                429,
                "upstream_rate_limited",
                "The model is rate limited.",
                type="rate_limit_error",
                retry_after=after if after is not None else 1.0,
            )
        case "timeout":
            return upstream_failed(
                "The model did not answer in time.", code="upstream_timeout", status=504
            )
        case "credentials":
            return upstream_failed(
                "The gateway's credentials for this model were refused. Your own key is fine.",
                code="upstream_credentials_exhausted",
                should_retry=False,
            )
        case _:
            return upstream_failed("The model's backend failed.")
