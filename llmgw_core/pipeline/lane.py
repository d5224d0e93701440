"""What one principal may do with one model, compiled once and kept beside the cached principal:
the grant's decision, the meters that apply and the candidates that may serve it. What an alias
leads to is compiled here as well; which of it a call takes is chosen in `aliases`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgw_core.access.decide import Access
from llmgw_core.access.patterns import PatternSet
from llmgw_core.domain.errors import overloaded
from llmgw_core.limits.port import Unsupported, bind
from llmgw_core.limits.specs import meters_for, model_meters, pair_meters
from llmgw_core.pipeline.aliases import AliasChoice, Variants
from llmgw_core.routing.plan import Candidates, Dropped, Rights, candidates
from llmgw_core.wire.life import life_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.alias import Alias
    from llmgw_core.domain.deployment import Model
    from llmgw_core.limits.brake_rules import BrakeRules
    from llmgw_core.limits.budgets import Purse
    from llmgw_core.limits.port import Counter, Limiter, MeterSpec
    from llmgw_core.routing.plan import Roster
    from llmgw_core.routing.rollouts import LiveRollouts, Trial

    Meters = Sequence[tuple[MeterSpec, Counter]]

NO_PRICE = "it has no price"
RETIRED = "the model is retired"
_ANY_TIME = 2**62
_NARROWED = 64
"""Combinations of zones that are remembered for one principal."""


class Lane:
    """One principal on one model. `token_limit` is the smallest token limit that applies, None
    if none does; `extra` are the bound meters of each fallback model. `headers` belong to every
    reply, `lines` are the same as lines of a head: what is announced of the `name` that was asked
    for. `choice` of an alias says which lane a call takes; `trial`, if there is one, hears of
    every call that has ended. `timed`: its calls have a deadline from the start. `demanding`: its
    meters, or those of a fallback model, count more than requests, tokens and parallel calls in
    plain windows; `output_limit` is the smallest limit of tokens of output alone. `purse` is what
    the principal may spend from, if it has budgets, `brake` what stops its loops; `plain`: none of
    the three."""

    __slots__ = (
        "bound",
        "brake",
        "candidates",
        "choice",
        "demanding",
        "extra",
        "headers",
        "lines",
        "model",
        "name",
        "output_limit",
        "plain",
        "purse",
        "specs",
        "timed",
        "token_limit",
        "trial",
    )

    def __init__(
        self,
        name: Model,
        model: Model,
        specs: tuple[MeterSpec, ...],
        found: Candidates,
        limiter: Limiter,
        choice: AliasChoice[Lane] | None = None,
        *,
        others: Meters = (),
        purse: Purse | None = None,
        brake: BrakeRules | None = None,
        fallbacks: Callable[[Model], Sequence[MeterSpec]] = model_meters,
        successor: bool = True,
    ) -> None:
        """`others` are meters that somebody else keeps, `fallbacks` tells those of a model that is
        fallen back to. `successor`: the one of `name` may be told."""
        self.name = name
        self.model = model
        self.headers = life_headers(name.life, successor=successor)
        self.lines = b"".join(b"%b: %b\r\n" % field for field in self.headers)
        self.choice = choice
        self.trial: Trial | None = None
        self.specs = specs
        self.candidates = found
        self.timed = model.rules.deadline_seconds is not None
        self.bound = bind(limiter, specs, others)
        self.token_limit = _smallest(specs, "all")
        self.output_limit = _smallest(specs, "output")
        extra = {
            tier.model.name: tuple(fallbacks(tier.model))
            for tier in found.every_tier()
            if tier.model is not model
        }
        self.extra: dict[str, Any] = {
            name: bind(limiter, meters) for name, meters in extra.items() if meters
        }
        every = (specs, *extra.values())
        self.demanding = bool(others) or not all(spec.plain for each in every for spec in each)
        self.purse = purse
        self.brake = brake
        self.plain = purse is None and brake is None and not self.demanding

    @property
    def direct(self) -> bool:
        """Whether the model itself can serve, and not only what stands in for it."""
        tiers = self.candidates.tiers
        return bool(tiers) and tiers[0].model is self.model


def _smallest(specs: Iterable[MeterSpec], kind: str) -> int | None:
    """The least that is ever let through at once, of tokens of that kind; None = no limit."""
    limits = [
        spec.capacity if spec.shape == "bucket" else spec.limit
        for spec in specs
        if spec.unit == "tokens" and spec.kind == kind and not spec.shadow
    ]
    return min(limits, default=None)


class Lanes:
    """The lanes of one principal, by model name. Only configured names are kept, so that names
    invented by clients cost no memory."""

    __slots__ = (
        "_lanes",
        "_narrowed",
        "_parts",
        "_rights",
        "access",
        "brake",
        "models",
        "principal",
        "purse",
    )

    def __init__(
        self,
        principal: Principal,
        models: Mapping[str, Model],
        limiter: Limiter,
        prices: PriceBook,
        roster: Roster,
        rollouts: LiveRollouts,
        *,
        refuse_unpriced: bool,
        purse: Purse | None = None,
        brake: BrakeRules | None = None,
        zones: frozenset[str] | None = None,
    ) -> None:
        """`zones`, if given, are those that are left of what the principal may use."""
        self.principal = principal
        self.purse = purse
        self.brake = brake
        self.access = Access(principal, {name: model.tags for name, model in models.items()})
        self.models = models
        self._parts = (limiter, prices, roster, rollouts, refuse_unpriced)
        self._rights = self._rights_in(zones)
        self._lanes: dict[str, Lane] = {}
        self._narrowed: dict[frozenset[str], Lanes] = {}

    def lane(self, name: str) -> Lane | None:
        """The lane for a public model name; None when it does not exist or is not granted."""
        lane = self._lanes.get(name)
        if lane is None and name in self.models and self.access.may_use(name).allowed:
            lane = self._lanes[name] = self._compile(name)
        return lane

    def visible(self) -> list[Model]:
        """The models that this principal may use and that somebody can serve to it."""
        return [
            model
            for name, model in self.models.items()
            if (lane := self.lane(name)) is not None
            and (lane.candidates.tiers if lane.choice is None else lane.choice.usable)
        ]

    def within(self, zones: frozenset[str]) -> Lanes:
        """The same principal, confined to those of its zones that are among `zones`."""
        narrowed = self._narrowed.get(zones)
        if narrowed is None:
            limiter, prices, roster, rollouts, refuse_unpriced = self._parts
            if len(self._narrowed) >= _NARROWED:
                self._narrowed.clear()
            narrowed = self._narrowed[zones] = Lanes(
                self.principal,
                self.models,
                limiter,
                prices,
                roster,
                rollouts,
                refuse_unpriced=refuse_unpriced,
                purse=self.purse,
                brake=self.brake,
                zones=zones,
            )
        return narrowed

    def successor(self, model: Model) -> str:
        """What is to be used in place of `model`, if the principal may know of it."""
        successor = model.life.successor
        return successor if successor and self.access.may_use(successor).allowed else ""

    def _compile(self, name: str) -> Lane:
        model = self.models[name]
        if model.life.state == "retired":
            return self._lane(model, model, Candidates.of(()))
        if model.alias is not None:
            return self._alias(model, model.alias)
        return self._lane(model, model, candidates(name, self.models, self._rights, self._parts[2]))

    def _lane(
        self, name: Model, model: Model, found: Candidates, choice: AliasChoice[Lane] | None = None
    ) -> Lane:
        specs = meters_for(self.principal, name, covers_model)
        if model is not name:
            specs += self._meters_of(model)
        told = bool(self.successor(name))
        limiter = self._parts[0]
        try:
            return Lane(
                name,
                model,
                specs,
                found,
                limiter,
                choice,
                purse=self.purse,
                brake=self.brake,
                fallbacks=self._meters_of,
                successor=told,
            )
        except Unsupported as error:
            raise overloaded(
                "A limit that applies to this call cannot be counted.",
                code="limit_unsupported",
                should_retry=False,
            ).decided_by(str(error)) from None

    def _meters_of(self, model: Model) -> tuple[MeterSpec, ...]:
        """What joins when `model` stands in for what was asked for."""
        return (*pair_meters(self.principal, model, covers_model), *model_meters(model))

    def _alias(self, name: Model, alias: Alias) -> Lane:
        def lane(model_name: str, before: Iterable[str]) -> Lane | None:
            model = self.models.get(model_name)
            if model is None or model.alias is not None or model.kind != name.kind:
                return None
            found = candidates(model_name, self.models, self._rights, self._parts[2], before)
            dropped.extend(found.dropped)
            usable = found.tiers and self._rights.model(model_name) is None
            return self._lane(name, model, found) if usable else None

        dropped: list[Dropped] = []
        choice = AliasChoice(name, alias, Variants.of(name.name, alias, lane), self._parts[3])
        tiers = [each.lane.candidates.tiers[0] for each in choice.variants.listed]
        return self._lane(name, name, Candidates.of(tiers, dropped), choice)

    def _rights_in(self, zones: frozenset[str] | None) -> Rights:
        _, prices, _, _, refuse_unpriced = self._parts

        def grant(name: str) -> str | None:
            if self.models[name].life.state == "retired":
                return RETIRED
            decision = self.access.may_use(name)
            return None if decision.allowed else decision.rule

        def zone(name: str) -> str | None:
            if not self.access.zone_allowed(name):
                return f"zone {name} is not allowed"
            left_out = zones is not None and name not in zones
            return f"zone {name} is not one that the call is confined to" if left_out else None

        def price(model_name: str, deployment: str) -> str | None:
            # A price that begins later is looked at again at every attempt.
            unpriced = refuse_unpriced and prices.price(model_name, deployment, _ANY_TIME) is None
            return NO_PRICE if unpriced else None

        return Rights(grant, zone, price)


def covers_model(pattern: str, model: Model) -> bool:
    """Whether a pattern, as grants have them, covers a model."""
    return PatternSet((pattern,)).match(model.name, model.tags) is not None
