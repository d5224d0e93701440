"""Why a call would go where it goes, without making it.

It takes the steps of a call up to its first attempt, on the very same functions: grants, switches,
aliases and zones by admission, the meters by the limiter, the order by `plan`. Nothing changes by
it, and nobody is called: plugins are asked whether they authorise, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.call import Call, Endpoint, Head
from llmgw_core.domain.errors import GatewayError, unknown_caller
from llmgw_core.inprocess.memory import MemorySink
from llmgw_core.limits import words
from llmgw_core.limits.budgets import BudgetExceeded
from llmgw_core.limits.port import Exceeded
from llmgw_core.pipeline.budget_reached import budget_reached, budget_sentences
from llmgw_core.pipeline.demanding import demand_of
from llmgw_core.pipeline.exchange import Exchange
from llmgw_core.pipeline.explanation import (
    Caller,
    Candidate,
    Explanation,
    Left,
    Question,
    Refusal,
    Rule,
)
from llmgw_core.pipeline.limit_reached import limit_reached
from llmgw_core.pipeline.zones import ZONE
from llmgw_core.wire.request import decode_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from llmgw_core.access.principals import PrincipalCache
    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.limits.port import Demand, Limiter
    from llmgw_core.pipeline.admission import Admission
    from llmgw_core.pipeline.attempts import Attempts
    from llmgw_core.pipeline.lane import Lane
    from llmgw_core.pipeline.switchboard import Switchboard
    from llmgw_core.routing.plan import Dropped, Tier
    from llmgw_core.routing.rollouts import LiveRollouts
    from llmgw_core.routing.state import RoutingMemory

PATHS: dict[Endpoint, str] = {
    "chat.completions": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
}
_NOT_ASKED = ("pre_auth", "authenticate", "pre_route")


class Explainer:
    """Explains calls that would begin in one generation."""

    def __init__(
        self,
        *,
        admission: Admission,
        attempts: Attempts,
        host: PluginHost,
        principals: PrincipalCache,
        models: Mapping[str, Model],
        memory: RoutingMemory,
        limiter: Limiter,
        prices: PriceBook,
        switchboard: Switchboard,
        rollouts: LiveRollouts,
        refuse_unpriced: bool,
        clock: Callable[[], float],
        wall_clock_ns: Callable[[], int],
    ) -> None:
        self.admission = admission
        self.attempts = attempts
        self.host = host
        self.principals = principals
        self.models = models
        self.memory = memory
        self.limiter = limiter
        self.prices = prices
        self.switchboard = switchboard
        self.rollouts = rollouts
        self.refuse_unpriced = refuse_unpriced
        self.clock = clock
        self.wall_clock_ns = wall_clock_ns

    async def explain(self, question: Question) -> Explanation:
        """What would happen. A refusal is a part of the answer; raises `StoreUnavailable` and
        `GatewayError` only when the question itself cannot be looked at."""
        model = self.models.get(question.model)
        endpoint: Endpoint = "chat.completions"
        if model is not None and model.kind == "embedding":
            endpoint = "embeddings"
        call = Call("", endpoint, _head(question, endpoint), self.clock(), self.wall_clock_ns())
        request = decode_request(_body(question, endpoint), endpoint)
        call.request = request
        call.asked = call.model = request.model
        return await _Inquiry(self, Exchange(call, MemorySink())).answer(question)


class _Inquiry:
    """One question on its way to its answer."""

    def __init__(self, parts: Explainer, exchange: Exchange) -> None:
        self._parts = parts
        self._exchange = exchange
        self._call = exchange.call
        self._rules: list[Rule] = []
        self._refusal: Refusal | None = None
        self._dropped: dict[str, Left] = {}
        self._demand: Demand | None = None

    async def answer(self, question: Question) -> Explanation:
        """See `Explainer.explain`."""
        try:
            await self._identify(question)
            self._tell_switches()
            self._tell_grant()
            lane = self._parts.admission.authorize(self._exchange)
        except GatewayError as error:
            self._refuse(error)
            return self._explanation(())
        self._tell_alias(lane)
        self._check_limits(lane)
        return self._explanation(self._candidates(lane), lane)

    async def _identify(self, question: Question) -> None:
        principal = question.principal
        if principal is None and question.subject is not None:
            principal = await self._parts.principals.resolve_subject(question.subject)
            if principal is None:
                raise unknown_caller()
        self._call.principal = principal
        await self._parts.admission.recognize(self._exchange)

    def _refuse(self, error: GatewayError) -> None:
        if self._refusal is None:
            self._refusal = Refusal(error.status, error.code, error.message, error.rule)

    # What has decided

    def _tell(self, kind: str, sentence: str) -> None:
        self._rules.append(Rule(kind, sentence))

    def _tell_switches(self) -> None:
        call, now = self._call, self._call.started_ns / 1e9
        for switch in self._parts.switchboard.switches:
            if (
                switch.holds(now)
                and switch.kind in ("model", "route")
                and switch.name == call.asked
            ):
                self._tell("switch", f"{switch.subject()} is {switch.sentence()}")

    def _tell_grant(self) -> None:
        lanes = self._exchange.lanes
        assert lanes is not None
        decision = lanes.access.may_use(self._call.asked)
        if self._call.asked not in self._parts.models:
            self._tell("model", f"there is no model {self._call.asked}")
        else:
            how = "granted" if decision.allowed else "not granted"
            self._tell("grant", f"{self._call.asked} is {how}: {decision.rule}")
        zones = self._call.head.get(ZONE)
        if zones is not None:
            self._tell("zone", f"the call is confined to {zones.decode('latin-1')}")

    def _tell_alias(self, lane: Lane) -> None:
        name = lane.name
        if name.life.state != "active":
            self._tell("life", f"{name.name} is {name.life.state}")
        if name.alias is None:
            return
        how = "by weight for every call" if name.alias.sticky == "call" else name.alias.sticky
        variants = ", ".join(f"{each.model} {each.weight}" for each in name.alias.variants)
        self._tell(
            "alias", f"{name.name} leads to {lane.model.name} (sticky: {how}; weights: {variants})"
        )
        rollout = self._parts.rollouts.of(name.name)
        if rollout is not None and rollout.holds(name.alias.variants):
            share = f"a canary with {rollout.share:g} %"
            what = "promoted in place of them" if rollout.state == "promoted" else share
            self._tell("canary", f"{rollout.model} is {what}")

    def _check_limits(self, lane: Lane) -> None:
        parts = self._parts
        input_tokens, tokens = parts.admission.demand(self._call, lane)
        demand = demand_of(self._call, lane, input_tokens, tokens) if lane.demanding else None
        self._demand = demand
        self._exchange.reserved = tokens
        states = getattr(parts.limiter, "states", None)
        for spec, state in () if states is None else states(lane.bound):
            self._tell("limit", words.left(spec, state))
        if lane.token_limit is not None:
            self._tell("limit", f"the call would reserve {tokens} tokens")
        if lane.brake is not None:
            try:
                parts.admission.braking.examine(lane.brake, self._call)
            except GatewayError as error:
                self._refuse(error)
        self._check_budgets(lane, input_tokens, tokens)
        try:
            self._examine(lane.bound, tokens)
        except Exceeded as error:
            self._refuse(limit_reached(error, tokens, demand))

    def _check_budgets(self, lane: Lane, input_tokens: int, tokens: int) -> None:
        if lane.purse is None:
            return
        at_ns, estimate = self._call.started_ns, self._parts.admission.spending.estimate
        need = estimate.first(self._call, lane, input_tokens, tokens)
        for sentence in budget_sentences(lane.purse, at_ns, need):
            self._tell("budget", sentence)
        try:
            lane.purse.examine(at_ns, need)
        except BudgetExceeded as error:
            fallback = error.line.budget.fallback
            if fallback and self._exchange.lanes is not None:
                there = self._exchange.lanes.lane(fallback) is not None
                then = "would serve instead" if there else "is not granted"
                self._tell("budget", f"{fallback}, which is named for that, {then}")
                if there:
                    return
            self._refuse(budget_reached(error))

    def _examine(self, bound: Any, tokens: int) -> None:
        """Raise `Exceeded` where a reservation would, if the limiter can tell."""
        examine = getattr(self._parts.limiter, "examine", None)
        if examine is not None and self._demand is not None:
            examine(bound, tokens, self._demand)
        elif examine is not None:
            examine(bound, tokens)

    # Where to

    def _candidates(self, lane: Lane) -> Iterable[Candidate]:
        found: list[Candidate] = []
        try:
            for round in self._parts.attempts.rounds(self._exchange):
                self._leave(round.dropped)
                found += (self._candidate(each, lane) for each in round.ordered(self._call))
        except GatewayError as error:
            self._refuse(error)
        self._leave(lane.candidates.dropped)
        return found

    def _candidate(self, deployment: Deployment, lane: Lane) -> Candidate:
        return Candidate(
            deployment.id,
            deployment.model,
            deployment.backend,
            deployment.zone,
            self._note(deployment, lane),
        )

    def _note(self, deployment: Deployment, lane: Lane) -> str:
        parts = self._parts
        obstacle = parts.memory.obstacle(deployment, parts.memory.clock())
        if obstacle is not None:
            return f"{obstacle.reason}; it is tried when nobody else is left"
        price = parts.prices.price(deployment.model, deployment.id, self._call.started_ns)
        if price is None and parts.refuse_unpriced:
            return "it has no price at this time"
        extra = lane.extra.get(deployment.model)
        if extra is not None:
            try:
                self._examine(extra, self._exchange.reserved)
            except Exceeded as error:
                return f"the meter {error.spec.id} has no room"
        return ""

    def _leave(self, dropped: Iterable[Dropped]) -> None:
        for each in dropped:
            model = each.deployment.rpartition("/")[0]
            self._dropped.setdefault(each.deployment, Left(each.deployment, model, each.reason))

    def _all(self, tiers: Iterable[Tier], lane: Lane) -> Iterator[Candidate]:
        for tier in tiers:
            yield from (self._candidate(each, lane) for each in tier.deployments)

    def _explanation(
        self, candidates: Iterable[Candidate], lane: Lane | None = None
    ) -> Explanation:
        call, principal = self._call, self._call.principal
        if lane is None:
            self._leave_all()
        candidates = tuple(candidates)
        tried = {each.deployment for each in candidates}
        return Explanation(
            asked=call.asked,
            model=call.model if lane is None else lane.model.name,
            caller=None if principal is None else _caller(principal),
            refusal=self._refusal,
            rules=tuple(self._rules),
            candidates=candidates,
            dropped=tuple(each for name, each in self._dropped.items() if name not in tried),
            too_long=() if lane is None else tuple(self._all(lane.candidates.larger, lane)),
            refused=() if lane is None else tuple(self._all(lane.candidates.lenient, lane)),
            notes=tuple(self._notes(lane)),
        )

    def _leave_all(self) -> None:
        """Of a call that is refused: why none of the deployments is a candidate."""
        lanes, call = self._exchange.lanes, self._call
        lane = None if lanes is None else lanes.lane(call.model)
        if lane is not None:
            self._leave(lane.candidates.dropped)
        model = self._parts.models.get(call.model)
        if model is not None and self._refusal is not None:
            reason = self._refusal.code
            for each in model.deployments:
                self._dropped.setdefault(each.id, Left(each.id, model.name, reason))

    def _notes(self, lane: Lane | None) -> Iterator[str]:
        host = self._parts.host
        for hook in _NOT_ASKED:
            names = ", ".join(each.plugin for each in getattr(host, hook))
            if names:
                yield f"{hook} of {names} was not run; it may change what happens"
        alias = None if lane is None else lane.name.alias
        if lane is None or alias is None:
            return
        if alias.sticky == "call":
            yield f"{lane.name.name} leads every call elsewhere by chance; this is one of them"
        if alias.sticky == "session":
            yield f"a call with the header {alias.session_header} may be led elsewhere"


def _caller(principal: Principal) -> Caller:
    return Caller(principal.organization_id, principal.team_id, principal.user_id, principal.key_id)


def _head(question: Question, endpoint: Endpoint) -> Head:
    fields = [(b"content-type", b"application/json")]
    if question.key:
        fields.append((b"authorization", b"Bearer " + question.key.encode()))
    if question.zone:
        fields.append((ZONE, question.zone.encode()))
    return Head("POST", PATHS[endpoint], tuple(fields))


def _body(question: Question, endpoint: Endpoint) -> bytes:
    text: dict[str, object] = {"input": ""}
    if endpoint == "chat.completions":
        text = {"messages": [{"role": "user", "content": ""}]}
    return msgspec.json.encode({**text, **question.body, "model": question.model})
