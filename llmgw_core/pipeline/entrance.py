"""The HTTP-shaped entrance: one call from receipt to reply, in the order of its steps.

It knows no ASGI: servers, the in-process client and tests come through `handle`. This is also
the one edge where errors become replies, and the one place that catches what nobody expected;
that counts in `bugs_total`, which every test run asserts to be zero.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import unquote

from llmgw_core.domain.call import Call, ClientGone, Endpoint
from llmgw_core.domain.errors import GatewayError, internal_error, not_found, wrong_method
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.hooks.host import Answer
from llmgw_core.pipeline.admission import absent
from llmgw_core.pipeline.cost_center_header import COST_CENTER, booked_on
from llmgw_core.pipeline.exchange import Exchange
from llmgw_core.pipeline.failures import let_go
from llmgw_core.pipeline.identity import join_trace, new_id
from llmgw_core.pipeline.listing import model_object, models_list
from llmgw_core.wire.envelope import JSON, error_body, error_event, error_headers
from llmgw_core.wire.life import life_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Body, Handle, Head, Sink, Subcall
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.admission import Admission
    from llmgw_core.pipeline.attempts import Attempts
    from llmgw_core.pipeline.delivery import Delivery
    from llmgw_core.pipeline.keep_alive import KeptAlive
    from llmgw_core.pipeline.overload import HeldBack
    from llmgw_core.pipeline.stats import Stats

log = logging.getLogger("llmgw.pipeline")

CALLS: dict[str, Endpoint] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/embeddings": "embeddings",
    "/v1/embedding": "embeddings",
}
MODELS = "/v1/models"


class Entrance:
    """Takes requests; one per gateway."""

    def __init__(
        self,
        *,
        admission: Admission,
        attempts: Attempts | HeldBack | KeptAlive,
        delivery: Delivery,
        host: PluginHost,
        stats: Stats,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int],
    ) -> None:
        self._admission = admission
        self._attempts = attempts
        self._delivery = delivery
        self._host = host
        self._stats = stats
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._successor: Handle | None = None
        self._retired = False
        self._idle = asyncio.Event()
        self.running = 0
        """Calls that have begun and not ended, admitted or not."""

    async def handle(  # noqa: C901 -- the edge of all calls: another method is paid by each
        self,
        head: Head,
        body: Body,
        sink: Sink,
        principal: Principal | None = None,
        subcall: Subcall | None = None,
    ) -> UsageRecord | None:
        """Answer one request completely, errors included. Raises only `CancelledError`. Returns
        the record of a call that was admitted.

        `principal`: who calls, if that is known already (an embedding application, a plugin's
        own call, a client certificate); then no credentials are looked at. `subcall`: a plugin
        calls, in the course of another call."""
        if self._successor is not None:
            return await self._successor(head, body, sink, principal, subcall)
        endpoint = CALLS.get(head.path)
        started_ns = self._wall_clock_ns()
        id, named = new_id(started_ns), endpoint or "chat.completions"
        call = Call(
            id, named, head, self._clock(), started_ns, principal, subcall, id[4:], id[-16:]
        )
        trace = (head.index or head.fields).get(b"traceparent")
        if trace is not None:
            join_trace(call, trace)
        if subcall is not None:
            call.deadline = subcall.deadline
        exchange = Exchange(call, sink)
        self.running += 1
        try:
            if endpoint is None:
                await self._other(exchange)
            elif head.method != "POST":
                raise wrong_method("POST")
            else:
                # Each of these steps says what is to be awaited, which mostly is nothing.
                admission, host = self._admission, self._host
                waiting = admission.authenticate(exchange)
                if waiting is not None:
                    await waiting
                waiting = admission.read(exchange, body)
                if waiting is not None:
                    await waiting
                admission.authorize(exchange)
                assert call.principal is not None
                fields = call.head.index or call.head.fields
                if call.principal.cost_centers is not None or COST_CENTER in fields:
                    call.cost_center = booked_on(call)
                waiting = admission.reserve(exchange)
                if waiting is not None:
                    await waiting
                exchange.stop_when_gone()
                if not host.pre_route or not await self._answered(exchange):
                    await self._attempts.run(exchange, self._delivery.deliver)
        except GatewayError as error:
            await self._refuse(exchange, error)
        except UpstreamFailure as failure:
            await self._pass_through(exchange, failure)
        except ClientGone:
            _left(exchange)
        except asyncio.CancelledError:
            if not exchange.stopped:
                raise
            if exchange.ending is None:
                _left(exchange)
            else:
                exchange.ticket.ended(exchange.ending)
            if not exchange.take_back():
                raise
            if exchange.ending is not None:
                await self._refuse(exchange, exchange.ending)
                # What an operator has ended says nothing about who served it.
                exchange.lane = None
        except Exception:
            self._stats.bugs_total += 1
            log.exception("bug: call=%s", call.id)
            if exchange.settlement is not None:
                exchange.settlement.interrupted()
            await self._refuse(exchange, internal_error())
        finally:
            sink.on_gone = None
            if exchange.leaving is not None:
                exchange.work_on_when_gone()
                exchange.take_back()
            settlement = exchange.settlement
            if settlement is not None:
                if not settlement.settled:
                    settlement.interrupted()
                lane = exchange.lane
                if lane is not None and lane.trial is not None and settlement.record is not None:
                    lane.trial.ended(settlement.record, held_back=exchange.held_back)
            self.running -= 1
            if self._retired and not self.running:
                self._idle.set()
        return None if exchange.settlement is None else exchange.settlement.record

    def retire(self, successor: Handle) -> None:
        """Calls that begin from now on, by whoever has kept `handle`, are the successor's."""
        self._successor = successor
        self._retired = True
        if not self.running:
            self._idle.set()

    def abandon(self) -> None:
        """Wait no longer: the gateway is closing, and the books have settled what runs."""
        self._idle.set()

    async def idle(self) -> None:
        """Wait until the last call has ended; after `retire`."""
        await self._idle.wait()

    async def _answered(self, exchange: Exchange) -> bool:
        """Run `pre_route`. Returns whether one of the hooks has answered the call."""
        call = exchange.call
        answer = await self._host.run_pre_route(call.request, call)
        if isinstance(answer, Answer):
            await self._delivery.hand_over(exchange, answer)
            return True
        if answer is not call.request:
            call.request = answer
            call.model = answer.model
            await self._admission.amend(exchange)
        return False

    async def _other(self, exchange: Exchange) -> None:
        """`/v1/models` and `/v1/models/{id}`; anything else does not exist."""
        head = exchange.call.head
        if head.path != MODELS and not head.path.startswith(MODELS + "/"):
            raise not_found()
        if head.method not in ("GET", "HEAD"):
            raise wrong_method("GET, HEAD")
        waiting = self._admission.authenticate(exchange)
        if waiting is not None:
            await waiting
        lanes = exchange.lanes
        assert lanes is not None
        models = self._admission.visible(exchange)
        name = unquote(head.path.removeprefix(MODELS).removeprefix("/"))
        headers = [JSON, (b"x-request-id", exchange.call.id.encode())]
        if name:
            found = next((model for model in models if model.name == name), None)
            if found is None:
                raise absent(name, lanes)
            reply = model_object(found, lanes)
            told = bool(lanes.successor(found))
            headers += life_headers(found.life, successor=told)
        else:
            reply = models_list(models, lanes)
        await exchange.start(200, headers)
        await exchange.sink.finish(b"" if head.method == "HEAD" else reply)

    async def _refuse(self, exchange: Exchange, error: GatewayError) -> None:
        """The one place where an error becomes a reply."""
        error.let_go()
        exchange.work_on_when_gone()
        request_id = exchange.call.id
        settlement = exchange.settlement
        if settlement is None:
            self._stats.refuse(exchange.call, error)
        else:
            # A call that a hook or a limit stopped before any attempt is refused, else failed.
            failed = settlement.attempts or settlement.attempt or error.status >= 500
            status = 200 if exchange.replied else error.status
            settlement.unsuccessful("failed" if failed else "refused", status, error.code)
            if error.rule:
                self._stats.remember(exchange.call, error)
        if exchange.replied:
            await exchange.sink.finish(error_event(error, request_id))
            return
        headers = error_headers(error, request_id)
        headers.extend(self._delivery.rate_headers(exchange))
        await exchange.start(error.status, headers)
        await exchange.sink.finish(error_body(error, request_id))

    async def _pass_through(self, exchange: Exchange, failure: UpstreamFailure) -> None:
        """The upstream says that the request is at fault: the client gets its own words."""
        let_go(failure)
        exchange.work_on_when_gone()
        status = 200 if exchange.replied else failure.status
        exchange.ticket.unsuccessful("refused", status, "upstream_refused")
        if exchange.replied:
            await exchange.sink.finish(b"data: %b\n\n" % failure.body)
            return
        headers = [
            JSON,
            (b"x-request-id", exchange.call.id.encode()),
            (b"x-should-retry", b"false"),
            *self._delivery.rate_headers(exchange),
        ]
        await exchange.start(failure.status, headers)
        await exchange.sink.finish(failure.body)


def _left(exchange: Exchange) -> None:
    """Settle a call whose client has gone."""
    settlement = exchange.settlement
    if settlement is None:
        return
    if settlement.settled:
        settlement.left_after_settlement()
    else:
        settlement.client_left()
