"""Settling a call: usage → charge → reservation → journal, as one synchronous function.

It is synchronous so that nothing can cancel it between its steps, and idempotent so that every
way out of a call (reply, failure, cancellation) may simply ask for it. The journal is written
before the last byte of the reply leaves: a reply that arrived is on the books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.accounting.rates import capped, odd
from llmgw_core.domain.call import State
from llmgw_core.domain.usage import (
    NO_USAGE,
    AttemptRecord,
    CallStatus,
    DeliveryRecord,
    UsageRecord,
)
from llmgw_core.pipeline.attempt import Attempt, ended
from llmgw_core.pipeline.demanding import used_of
from llmgw_core.pipeline.interim import expected

if TYPE_CHECKING:
    from llmgw_core.accounting.prices import Price
    from llmgw_core.backends.port import StreamReader
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import Usage
    from llmgw_core.limits.port import Reservation
    from llmgw_core.pipeline.books import Books
    from llmgw_core.routing.caps import CapTicket

_SERVED = frozenset({"completed", "incomplete", "client_left"})


class Settlement(State):
    """The ticket of one admitted call: settled exactly once, whatever happens to the call.
    `demanding`: some of its meters count more than requests and all tokens. `noted`: when a
    note was taken of it (`pipeline.noting`); negative if it waits for one, else 0."""

    _books: Books
    _call: Call
    _reservation: Reservation
    input_tokens: int
    attempt: Attempt | None = None
    first_content: float = 0.0
    settled: bool = False
    demanding: bool = False
    record: UsageRecord | None = None
    _attempts: list[AttemptRecord] = msgspec.field(default_factory=list)
    _spent: Usage | None = None
    _cost: int = 0
    noted: float = 0.0
    charge: int = 0

    @property
    def call(self) -> Call:
        """The call."""
        return self._call

    @property
    def tried(self) -> tuple[int, str]:
        """How many attempts there were, the running one included, and the deployment of the last
        one, "" if there was none."""
        if self.attempt is not None:
            return len(self._attempts) + 1, self.attempt.deployment.id
        return len(self._attempts), self._attempts[-1].deployment if self._attempts else ""

    @property
    def attempts(self) -> int:
        """Attempts that have ended."""
        return len(self._attempts)

    def begin(self, deployment: Deployment, caps: CapTicket | None = None) -> Price | None:
        """A new attempt runs now, which has been counted against the `caps` of its deployment.
        Returns the price at the time of the call, if there is one."""
        books = self._books
        price = books.prices.price(deployment.model, deployment.id, self._call.started_ns)
        self.attempt = Attempt(deployment, price, books.clock(), caps)
        return price

    def sent(self) -> None:
        """The running attempt's request may reach the upstream from now on."""
        if self.attempt is not None:
            self.attempt.sent = True

    def received(self, answer: Reply) -> None:
        """The running attempt has given `answer`, which is to be judged before it is delivered:
        whatever happens until then, it is paid."""
        if self.attempt is not None:
            self.attempt.answer = answer

    def watch(self, reader: StreamReader) -> None:
        """The running attempt streams: `reader` knows what it has produced so far."""
        if self.attempt is not None:
            self.attempt.reader = reader

    def failed(self, outcome: str, status: int, reason: str = "") -> None:
        """The running attempt has failed and was not delivered; what it reported is paid. `reason`:
        what follows, and why."""
        attempt = self.attempt
        if attempt is not None:
            source = attempt.reader or attempt.answer
            usage = None if source is None else source.usage
            if usage is not None:
                usage = capped(usage)
                self._spent = usage if self._spent is None else usage.plus(self._spent)
            used = usage or NO_USAGE
            self._close(attempt, outcome, status, used, self._books.clock(), reason, usage)
            if self.noted:
                # What was noted of it is wrong now.
                self._books.await_note(self)

    def forget(self) -> None:
        """The running attempt met a connection that was dead already: it never happened."""
        self.attempt = None

    def complete(self, source: StreamReader | Reply, *, gone: bool = False) -> None:
        """The running attempt gave the whole reply, perhaps to a client that had `gone`."""
        used = self._used(source)
        now = self._books.clock()
        if not self.first_content:
            # A complete reply has its first content with its last.
            self.first_content = now
        if gone:
            self._settle("client_left", "ok", 499, used, "client_left", now)
        else:
            self._settle("completed", "ok", 200, used, "", now)

    def rejected(self, source: StreamReader | Reply, error: GatewayError) -> None:
        """The reply was whole, but a hook does not let it through: it is paid nevertheless."""
        used = self._used(source)
        self._settle("refused", "rejected", error.status, used, error.code)

    def stopped(self, error: GatewayError, *, committed: bool, replied: bool) -> None:
        """A stream filter does not let a stream go on: what the upstream has done is paid. Once
        content has reached the client (`committed`), what it has is an incomplete reply; the head
        of one may have reached it before (`replied`)."""
        status: CallStatus = "incomplete" if committed else "refused"
        used = self._delivered()
        self._settle(status, "rejected", 200 if replied else error.status, used, error.code)

    def incomplete(self, outcome: str, error_code: str) -> None:
        """The running attempt broke after the content commit: what was delivered is charged."""
        self._settle("incomplete", outcome, 200, self._delivered(), error_code)

    def client_left(self) -> None:
        """The client has gone: charged for what was used until now."""
        self._settle("client_left", "client_left", 499, self._delivered(), "client_left")

    def ended(self, error: GatewayError) -> None:
        """An operator ends the call: what was used is charged."""
        if self.first_content:
            self._settle("incomplete", "switched_off", 200, self._delivered(), error.code)
        else:
            self._settle("failed", "switched_off", error.status, self._delivered(), error.code)

    def interrupted(self) -> None:
        """The gateway itself stops the call (shutdown, a bug): what was used is charged."""
        if self.settled:
            return
        status: CallStatus = "incomplete" if self.first_content else "failed"
        self._settle(status, "interrupted", 500, self._delivered(), "interrupted")

    def unsuccessful(self, status: CallStatus, http_status: int, error_code: str) -> None:
        """No attempt succeeded, or the call was stopped before any."""
        self._settle(status, "", http_status, NO_USAGE, error_code)

    def answered(self, http_status: int = 200) -> None:
        """A hook answered without any upstream: nothing was used."""
        self._settle("completed", "", http_status, NO_USAGE, "")

    def interim(self, now: float) -> UsageRecord | None:
        """What `interrupted` would book now; None as long as nothing was sent. Changes nothing."""
        attempt, attempts = self.attempt, tuple(self._attempts)
        usage, cost, charge = NO_USAGE, self._cost, self.charge
        if attempt is not None:
            if attempt.sent:
                usage = expected(attempt, self._call.request, self._books, self.input_tokens)
            last = attempt.interim(usage, now)
            attempts, cost, charge = (*attempts, last), cost + last.cost, charge + last.charge
        if self._spent is not None:
            usage = self._spent if usage.source == "none" else usage.plus(self._spent)
        if usage.source == "none" and not self._attempts:
            return None
        status: CallStatus = "incomplete" if self.first_content else "failed"
        record = self._record(status, 500, usage, "interrupted", attempt, now)
        return msgspec.structs.replace(record, cost=cost, charge=charge, attempts=attempts)

    def left_after_settlement(self) -> None:
        """The client went away between settlement and the last byte: a second entry."""
        now = self._books.clock()
        duration = int((now - self._call.started) * 1e6)
        self._books.journal.append_delivery(DeliveryRecord(self._call.id, "client_left", duration))

    def _used(self, source: StreamReader | Reply) -> Usage:
        """The provider's usage, which the estimator learns from, or else an estimate."""
        attempt, usage = self.attempt, source.usage
        if attempt is None:
            return NO_USAGE  # the gateway has closed and settled it already
        if usage is None:
            return self._estimated(attempt, source)
        request = self._call.request
        telling = request.exact_tokens is None and not request.embedded
        self._books.estimator.learn(
            attempt.deployment.model,
            request.text_bytes if telling else 0,
            usage.input_tokens,
            source.output_bytes,
            usage.output_tokens,
        )
        return usage

    def _delivered(self) -> Usage:
        """What an attempt that did not end well has used: reported, else estimated."""
        attempt = self.attempt
        if attempt is None or not attempt.sent:
            return NO_USAGE
        source = attempt.reader or attempt.answer
        usage = None if source is None else source.usage
        return self._estimated(attempt, source) if usage is None else usage

    def _estimated(self, attempt: Attempt, source: StreamReader | Reply | None) -> Usage:
        model, request = attempt.deployment.model, self._call.request
        return self._books.estimates.usage(model, request, self.input_tokens, source)

    def _close(
        self,
        attempt: Attempt,
        outcome: str,
        status: int,
        usage: Usage,
        now: float,
        reason: str = "",
        spent: Usage | None = None,
    ) -> None:
        """`spent`: what an attempt has used that failed, and is paid nevertheless."""
        deployment, books, price = attempt.deployment, self._books, attempt.price
        cost = charge = 0
        sheet = ""
        if usage.source != "none":
            if price is None:
                books.unpriced.booked(deployment, self._call.started_ns)
            elif spent is None:
                cost, charge, sheet = price.priced(usage)
            else:
                cost, charge, sheet = price.tokens_priced(usage)
        duration = int((now - attempt.started) * 1e6)
        record = AttemptRecord(
            deployment.id,
            deployment.model,
            outcome,
            status,
            duration,
            cost,
            charge,
            reason,
            sheet,
            spent,
        )
        self._attempts.append(record)
        self._cost += cost
        self.charge += charge
        if books.host.on_attempt:
            books.host.observe_attempt(ended(self._call.id, len(self._attempts), record))
        books.stats.attempts[deployment.id, outcome] += 1
        if attempt.caps is not None:
            if attempt.sent:
                attempt.caps.settle(usage.input_tokens + usage.output_tokens)
            else:
                attempt.caps.release()
        self.attempt = None

    def _settle(
        self,
        status: CallStatus,
        outcome: str,
        http_status: int,
        usage: Usage,
        error_code: str,
        now: float = 0.0,
    ) -> None:
        if self.settled:
            return
        self.settled = True
        books, last = self._books, self.attempt
        books.open.pop(self, None)
        if self.noted < 0:
            books.unnoted.pop(self, None)
        now = now or books.clock()
        if last is not None and last.price is not None and last.price.images:
            usage = usage.with_images(self._call.request.images)
        if odd(usage):
            usage = capped(usage)
        if last is not None:
            self._close(last, outcome or status, http_status, usage, now)
        if self._spent is not None:
            usage = self._spent if usage.source == "none" else usage.plus(self._spent)
        tokens = usage.input_tokens + usage.output_tokens
        if self.demanding:
            self._reservation.settle(tokens, used_of(usage, self.charge))
        else:
            self._reservation.settle(tokens)
        record = self.record = self._record(status, http_status, usage, error_code, last, now)
        books.stats.settled(record)
        if books.budgets.active:
            books.budgets.settled(record)
        if books.brakes.open:
            books.brakes.settled(record)
        # The write comes last of what can fail: everything above is arithmetic in memory.
        books.journal.append_usage(record)
        if books.host.on_usage:
            books.host.observe_usage(record)

    def _record(
        self,
        status: CallStatus,
        http_status: int,
        usage: Usage,
        error_code: str,
        last: Attempt | None,
        now: float,
    ) -> UsageRecord:
        call = self._call
        principal = call.principal
        assert principal is not None
        served_model = deployment_id = zone = ""
        if last is not None:
            deployment = last.deployment
            deployment_id, zone = deployment.id, deployment.zone
            if status in _SERVED:
                served_model = deployment.model
        started, first = call.started, self.first_content
        # By position: names would cost more than all the arithmetic of a settlement.
        return UsageRecord(
            call.id,
            call.started_ns,
            call.endpoint,
            principal.organization_id,
            principal.team_id,
            principal.user_id,
            principal.key_id,
            call.asked,
            served_model,
            deployment_id,
            zone,
            call.request.stream,
            status,
            http_status,
            error_code,
            usage,
            self._cost,
            self.charge,
            self._books.currency,
            int((now - started) * 1e6),
            int((first - started) * 1e6) if first else 0,
            tuple(self._attempts),
            None if call.subcall is None else call.subcall.parent,
            call.cost_center,
        )
