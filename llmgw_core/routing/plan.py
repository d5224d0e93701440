"""Which deployments may serve a call, in which order, and why the others may not.

Pure: a function of the configuration, the principal's rights and the balancer's state. Every
candidate, fallbacks included, must be granted to the principal, lie in an allowed zone and have
a price; whatever fails one of these is dropped with its reason and never reaches the network.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.routing.balance import Balancer
    from llmgw_core.routing.state import RoutingMemory


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
    two calls.

    `larger` serve, in the place of all others, a request that turns out to be too long, and
    `lenient` one whose content is refused."""

    tiers: tuple[Tier, ...]
    dropped: tuple[Dropped, ...]
    count: int
    """How many there are in `tiers`."""
    larger: tuple[Tier, ...] = ()
    lenient: tuple[Tier, ...] = ()

    @classmethod
    def of(
        cls,
        tiers: Iterable[Tier],
        dropped: Iterable[Dropped] = (),
        larger: Iterable[Tier] = (),
        lenient: Iterable[Tier] = (),
    ) -> Candidates:
        """The candidates in `tiers`."""
        tiers = tuple(tiers)
        count = sum(len(tier.deployments) for tier in tiers)
        return cls(tiers, tuple(dropped), count, tuple(larger), tuple(lenient))

    def every_tier(self) -> Iterator[Tier]:
        """All that a call may come to, whatever happens to it."""
        return itertools.chain(self.tiers, self.larger, self.lenient)

    def without(self, models: Collection[str]) -> Candidates:
        """These, but none of `models`."""
        if not models:
            return self
        lists = (self.tiers, self.larger, self.lenient)
        kept = [[tier for tier in tiers if tier.model.name not in models] for tiers in lists]
        return Candidates.of(kept[0], self.dropped, *kept[1:])


class Rights(msgspec.Struct, frozen=True):
    """What routing asks about a candidate. Each answers with a reason to drop it, or None."""

    model: Callable[[str], str | None]
    zone: Callable[[str], str | None]
    price: Callable[[str, str], str | None]


def candidates(
    name: str, models: Mapping[str, Model], rights: Rights, before: Iterable[str] = ()
) -> Candidates:
    """The candidates for public model `name`, with those that were dropped. Fallbacks are the
    asked model's own list: a fallback's fallbacks do not count, so that the list in the
    configuration is the list that is tried. Models `before` come between it and its fallbacks."""
    asked = models[name]
    dropped: dict[str, Dropped] = {}

    def tiers(names: Iterable[str]) -> Iterator[Tier]:
        for each in dict.fromkeys(names):
            tier = _tier(models[each], rights, dropped)
            if tier is not None:
                yield tier

    own = tuple(tiers((name, *before, *asked.fallbacks)))
    larger = tuple(tiers(asked.context_fallbacks))
    lenient = tuple(tiers(asked.content_policy_fallbacks))
    return Candidates.of(own, dropped.values(), larger, lenient)


def _tier(model: Model, rights: Rights, dropped: dict[str, Dropped]) -> Tier | None:
    """What may be used of `model`; None when that is nothing. Adds to `dropped`."""
    allowed = []
    refusal = rights.model(model.name)
    for deployment in model.deployments:
        reason = refusal or rights.zone(deployment.zone) or rights.price(model.name, deployment.id)
        if reason:
            dropped[deployment.id] = Dropped(deployment.id, reason)
        else:
            allowed.append(deployment)
    return Tier(model, tuple(allowed)) if allowed else None


class Round(msgspec.Struct, frozen=True):
    """What a call tries of one tier: `ordered` from `eligible`, the pick first. `dropped` are
    those in whose way something stands at the moment; when that is final for all of a tier,
    `ordered` is empty."""

    tier: Tier
    eligible: Sequence[Deployment]
    ordered: Sequence[Deployment]
    dropped: tuple[Dropped, ...] = ()


def plan(
    call: Call, found: Candidates, memory: RoutingMemory, balancer: Balancer
) -> Iterator[Round]:
    """What `call` tries, tier by tier; a round is made when it is reached and not before, since
    the state may be another by then. Changes nothing, so that `explain` can ask as well; a call
    tells the balancer when it takes a pick."""
    for tier in found.tiers:
        if memory.troubled:
            yield _careful(call, tier, memory, balancer)
        else:
            deployments = tier.deployments
            yield Round(tier, deployments, balancer.order(call, deployments))


def _careful(call: Call, tier: Tier, memory: RoutingMemory, balancer: Balancer) -> Round:
    """The round of a tier when something stands in the way of some deployments. When that is so
    for all of them, the one that is soonest free is tried rather than nobody."""
    now = memory.clock()
    eligible: list[Deployment] = []
    soft: list[tuple[float, Deployment]] = []
    dropped: list[Dropped] = []
    for deployment in tier.deployments:
        obstacle = memory.obstacle(deployment, now)
        if obstacle is None:
            eligible.append(deployment)
            continue
        dropped.append(Dropped(deployment.id, obstacle.reason))
        if not obstacle.hard:
            soft.append((obstacle.until, deployment))
    if not eligible and soft:
        least = min(soft, key=lambda each: each[0])[1]
        eligible = [least]
        dropped = [each for each in dropped if each.deployment != least.id]
    ordered = balancer.order(call, eligible) if eligible else ()
    return Round(tier, eligible, ordered, tuple(dropped))
