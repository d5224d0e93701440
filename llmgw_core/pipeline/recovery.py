"""After a failed attempt: what is remembered of it, what is booked, and where the call goes on.

Only a call whose first attempt has failed has one of these. What to do is decided by
`routing.policy`; here it is carried out.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec

from llmgw_core.pipeline.failures import report
from llmgw_core.pipeline.verdicts import told, verdict
from llmgw_core.routing.policy import (
    REFUSALS,
    CallPolicy,
    Ended,
    Other,
    OtherModel,
    Same,
    Stop,
    Surroundings,
)
from llmgw_core.routing.rest import another_key, leave_alone, ring_of
from llmgw_core.routing.retry_budget import RetryBudget
from llmgw_core.routing.state import standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.credential import Credential
    from llmgw_core.domain.failure import UpstreamFailure
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.exchange import Exchange
    from llmgw_core.pipeline.stats import Stats
    from llmgw_core.routing.balance import Member
    from llmgw_core.routing.course import Course
    from llmgw_core.routing.plan import Candidates
    from llmgw_core.routing.policy import Step
    from llmgw_core.routing.state import Obstacle, RoutingMemory

log = logging.getLogger("llmgw.attempts")


_STEPS: Final = {Same: "same", Other: "other", OtherModel: "other_model"}


class Failed(NamedTuple):
    """An attempt that failed on `member`, with the credential that it showed, whose value was
    `secret`. `stale`: a kept-alive connection had died, or the upstream would not be asked for
    usage; `fresh`: it was the second try after such a thing, for which there is no third."""

    member: Member
    credential: Credential
    secret: str
    failure: UpstreamFailure
    stale: bool
    fresh: bool


class RecoveryParts(msgspec.Struct, frozen=True):
    """What recoveries share; one per gateway. `random`: from 0 to 1."""

    host: PluginHost
    memory: RoutingMemory
    stats: Stats
    random: Callable[[], float]


class Recovery:
    """Of one call on its `course`. `deadline` is in seconds of the memory's clock."""

    def __init__(
        self, parts: RecoveryParts, exchange: Exchange, course: Course, deadline: float
    ) -> None:
        self._parts = parts
        self._exchange = exchange
        self._course = course
        self._deadline = deadline
        around = Surroundings(
            next=course.next if exchange.turn is None else partial(exchange.turn.next, course),
            redirect=partial(_redirect, course),
            obstacle=partial(_obstacle, parts.memory),
            another_key=partial(_another_key, parts.memory),
            pay=partial(_pay, parts, course.found),
            random=parts.random,
        )
        self._policy = CallPolicy(course.found, deadline, around)

    async def after(self, failed: Failed) -> tuple[Member, bool]:
        """Where the call goes on, with an attempt that has begun, and whether on a fresh
        connection. Raises `GatewayError` or, to be passed through, `UpstreamFailure` when it does
        not go on."""
        exchange, course, memory = self._exchange, self._course, self._parts.memory
        settlement, member, failure = exchange.ticket, failed.member, failed.failure
        attempt = settlement.attempt
        seconds = 0.0 if attempt is None else memory.clock() - attempt.started
        free = not failed.fresh and (failed.stale or await self._renewed(failed))
        if not free:
            if not failure.ours:
                course.failed(member, failure.kind)
            deployment = member.deployment
            leave_alone(memory, deployment, failed.credential, failed.secret, failure)
        committed = exchange.replied and bool(settlement.first_content)
        ended = Ended(member, failure, seconds, free, committed)
        step = self._policy.after(ended, memory.clock())
        if isinstance(step, Same) and step.free:
            if course.again(member):
                settlement.forget()
                return member, True
            step = self._policy.after(msgspec.structs.replace(ended, free=False), memory.clock())
        self._book(failed, step)
        if isinstance(step, Stop):
            self._end(step)
        return await self._go_on(step), False

    async def _go_on(self, step: Same | Other | OtherModel) -> Member:
        """Begin the attempt that was decided on."""
        course, turn = self._course, self._exchange.turn
        if isinstance(step, Same):
            if step.pause:
                await asyncio.sleep(step.pause)
            if turn is None:
                member = course.resume(step.member)
            else:
                member = await turn.again(course, step.member)
        else:
            member = course.advance() if turn is None else await turn.advance(course)
        if member is None:  # its caps are used up meanwhile, or it is switched off
            self._end(self._policy.nobody(self._parts.memory.clock()))
        return member

    async def _renewed(self, failed: Failed) -> bool:
        """Whether a credential that was refused is another one now. Where it comes from may be
        slow, and has only the time that the call has."""
        if failed.failure.kind != "credentials":
            return False
        credential = failed.credential
        if credential.value != failed.secret:
            return True  # it changed while the attempt ran
        try:
            async with asyncio.timeout(self._deadline - self._parts.memory.clock()):
                return credential.invalidate() and await credential.get() != failed.secret
        except TimeoutError:
            return False

    def _book(self, failed: Failed, step: Step) -> None:
        deployment, failure = failed.member.deployment, failed.failure
        report(self._exchange.call.id, deployment.id, failure, step.reason)
        if failure.kind == "credentials":
            self._alert(failed)
        self._exchange.ticket.failed(failure.kind, failure.status, step.reason)
        if not isinstance(step, Stop):
            self._parts.stats.retries[deployment.model, _STEPS[type(step)]] += 1

    def _alert(self, failed: Failed) -> None:
        """Nobody's call shows that a credential is dead as long as others do its work."""
        deployment, parts = failed.member.deployment, self._parts
        keys = ring_of(parts.memory, deployment)
        parts.stats.refused_credentials[deployment.id] += 1
        log.error(
            "alert: upstream refuses a credential: deployment=%s credential=%d of %d status=%d;"
            " it is not used for %g s unless it changes",
            deployment.id,
            keys.number(failed.credential),
            len(keys),
            failed.failure.status,
            deployment.rules.credential_rest_seconds,
        )

    def _end(self, stop: Stop) -> NoReturn:
        if stop.failure.kind in REFUSALS:
            raise told(stop.failure, self._exchange.call, stop.member.deployment, self._parts.host)
        raise verdict(stop.failure.kind, stop.retry_after, late=stop.late)


# What the policy asks. Functions, since what belongs to a recovery would hold it in a circle.


def _redirect(course: Course, found: Candidates) -> None:
    course.found = found


def _obstacle(memory: RoutingMemory, member: Member) -> Obstacle | None:
    return standing(member.state, memory.clock())


def _another_key(memory: RoutingMemory, member: Member) -> bool:
    return another_key(memory, member.deployment)


def _pay(parts: RecoveryParts, found: Candidates) -> bool:
    memory, rules = parts.memory, found.rules
    budget = memory.retry_budgets.get(found.model)
    if budget is None:
        budget = memory.retry_budgets[found.model] = RetryBudget()
    calls = parts.stats.attempts_on(found.deployment_ids()) - budget.granted
    return budget.spend(calls, memory.clock(), share=rules.retry_share, minimum=rules.retry_minimum)
