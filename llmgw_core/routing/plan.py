"""Which deployments may serve a call, in which order, and why the others may not.

Pure: a function of the configuration, the principal's rights and the balancer's state. Every
candidate, fallbacks included, must be granted to the principal, lie in an allowed zone and have
a price; whatever fails one of these is dropped with its reason and never reaches the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

    def order(self, balancer: Balancer) -> list[Deployment]:
        """The candidates of one call in the order in which they are tried."""
        tiers = self.tiers
        if len(tiers) == 1 and len(tiers[0].deployments) == 1:
            return [tiers[0].deployments[0]]
        ordered: list[Deployment] = []
        for tier in tiers:
            ordered.extend(balancer.order(tier.deployments))
        return ordered


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
    return Candidates(tuple(tiers), tuple(dropped))
