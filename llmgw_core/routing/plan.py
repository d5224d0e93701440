"""Which deployments may serve a call, in which order, and why the others may not.

Pure: a function of the configuration, the principal's rights and the balancer's state. Every
candidate, fallbacks included, must be granted to the principal, lie in an allowed zone and have
a price; whatever fails one of these is dropped with its reason and never reaches the network.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.routing.balance import Balancer


class Dropped(msgspec.Struct, frozen=True):
    """A deployment that is no candidate, and why."""

    deployment: str
    reason: str


class Tier(msgspec.Struct, frozen=True):
    """The candidates of one model: they are balanced among each other."""

    model: Model
    deployments: tuple[Deployment, ...]


class Candidates(msgspec.Struct, frozen=True):
    """Who may serve a model for one principal: the model's own tier first, then one tier per
    fallback model. Computed once per principal and model, since nothing in it changes between
    two calls."""

    tiers: tuple[Tier, ...]
    dropped: tuple[Dropped, ...]
    count: int
    """How many there are."""

    @classmethod
    def of(cls, tiers: Iterable[Tier], dropped: Iterable[Dropped] = ()) -> Candidates:
        """The candidates in `tiers`."""
        tiers = tuple(tiers)
        return cls(tiers, tuple(dropped), sum(len(tier.deployments) for tier in tiers))

    def without(self, models: Collection[str]) -> Candidates:
        """These, but none of `models`."""
        if not models:
            return self
        kept = (tier for tier in self.tiers if tier.model.name not in models)
        return Candidates.of(kept, self.dropped)

    def order(self, balancer: Balancer) -> Iterator[Deployment]:
        """The candidates of one call in the order in which they are tried. A tier takes its turn
        at the balancer when it is reached and not before: fallbacks that are not needed would
        otherwise shift the shares of the calls that ask for them."""
        tiers = self.tiers
        if len(tiers) == 1:
            return iter(balancer.order(tiers[0].deployments))
        return chain.from_iterable(balancer.order(tier.deployments) for tier in tiers)


class Rights(msgspec.Struct, frozen=True):
    """What routing asks about a candidate. Each answers with a reason to drop it, or None."""

    model: Callable[[str], str | None]
    zone: Callable[[str], str | None]
    price: Callable[[str, str], str | None]


def candidates(name: str, models: Mapping[str, Model], rights: Rights) -> Candidates:
    """The candidates for public model `name`, with those that were dropped. Fallbacks are the
    asked model's own list: a fallback's fallbacks do not count, so that the list in the
    configuration is the list that is tried."""
    asked = models[name]
    tiers: list[Tier] = []
    dropped: list[Dropped] = []
    for model_name in dict.fromkeys((name, *asked.fallbacks)):
        model = models[model_name]
        allowed = []
        refusal = rights.model(model_name)
        for deployment in model.deployments:
            reason = (
                refusal or rights.zone(deployment.zone) or rights.price(model_name, deployment.id)
            )
            if reason:
                dropped.append(Dropped(deployment.id, reason))
            else:
                allowed.append(deployment)
        if allowed:
            tiers.append(Tier(model, tuple(allowed)))
    return Candidates.of(tiers, dropped)
