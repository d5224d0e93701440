"""What one principal may do with one model, compiled once and kept beside the cached principal:
the grant's decision, the meters that apply and the candidates that may serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmgw_core.access.decide import Access
from llmgw_core.limits.specs import meters_for, model_meters
from llmgw_core.routing.plan import Candidates, Rights, candidates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.accounting.prices import PriceBook
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.deployment import Model
    from llmgw_core.limits.port import Limiter, MeterSpec

NO_PRICE = "it has no price"
_ANY_TIME = 2**62


class Lane:
    """One principal on one model. `token_limit` is the smallest token limit that applies, None
    if none does; `extra` are the bound meters of each fallback model."""

    __slots__ = ("bound", "candidates", "extra", "model", "specs", "token_limit")

    def __init__(
        self,
        model: Model,
        specs: tuple[MeterSpec, ...],
        found: Candidates,
        limiter: Limiter,
    ) -> None:
        self.model = model
        self.specs = specs
        self.candidates = found
        self.bound = limiter.bind(specs)
        token_limits = [spec.limit for spec in specs if spec.unit == "tokens"]
        self.token_limit = min(token_limits) if token_limits else None
        self.extra: dict[str, Any] = {
            tier.model.name: limiter.bind(meters)
            for tier in found.every_tier()
            if tier.model is not model and (meters := model_meters(tier.model))
        }


class Lanes:
    """The lanes of one principal, by model name. Only configured names are kept, so that names
    invented by clients cost no memory."""

    __slots__ = ("_lanes", "_parts", "access", "models", "principal")

    def __init__(
        self,
        principal: Principal,
        models: Mapping[str, Model],
        limiter: Limiter,
        prices: PriceBook,
        *,
        refuse_unpriced: bool,
    ) -> None:
        self.principal = principal
        self.access = Access(principal, {name: model.tags for name, model in models.items()})
        self.models = models
        self._parts = (limiter, prices, refuse_unpriced)
        self._lanes: dict[str, Lane] = {}

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
            if (lane := self.lane(name)) is not None and lane.candidates.tiers
        ]

    def _compile(self, name: str) -> Lane:
        limiter, prices, refuse_unpriced = self._parts
        model = self.models[name]

        def price(model_name: str, deployment: str) -> str | None:
            # A price that begins later is looked at again at every attempt.
            unpriced = refuse_unpriced and prices.price(model_name, deployment, _ANY_TIME) is None
            return NO_PRICE if unpriced else None

        rights = Rights(self._no_grant, self._no_zone, price)
        return Lane(
            model,
            meters_for(self.principal, model),
            candidates(name, self.models, rights),
            limiter,
        )

    def _no_grant(self, model: str) -> str | None:
        decision = self.access.may_use(model)
        return None if decision.allowed else decision.rule

    def _no_zone(self, zone: str) -> str | None:
        return None if self.access.zone_allowed(zone) else f"zone {zone} is not allowed"
