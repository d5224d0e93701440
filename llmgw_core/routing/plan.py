"""Which deployments may serve a call, in which order, and why the others may not.

Pure: a function of the configuration, the principal's rights and the balancer's state. Every
candidate, fallbacks included, must be granted to the principal, lie in an allowed zone and have
a price; whatever fails one of these is dropped with its reason and never reaches the network.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from llmgw_core.domain.rules import CALL_RULES, DEFAULT_DEADLINE, CallRules
from llmgw_core.routing.state import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.routing.balance import Balancer, Member
    from llmgw_core.routing.state import DeploymentState, RoutingMemory


class Dropped(msgspec.Struct, frozen=True):
    """A deployment that is no candidate, and why."""

    deployment: str
    reason: str


class Tier(msgspec.Struct, frozen=True):
    """Candidates of one model with the same priority: `balancer` chooses among `members`."""

    model: Model
    members: tuple[Member, ...]
    balancer: Balancer
    capped: bool = False
    """Whether any of them has caps."""

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Of the members."""
        return tuple(member.deployment for member in self.members)


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
    model: str = ""
    """The public name that was asked for."""
    rules: CallRules = CALL_RULES
    """That model's."""

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
        return cls(tiers, tuple(dropped), _count(tiers), tuple(larger), tuple(lenient))

    def every_tier(self) -> Iterator[Tier]:
        """All that a call may come to, whatever happens to it."""
        return itertools.chain(self.tiers, self.larger, self.lenient)

    def without(self, models: Collection[str]) -> Candidates:
        """These, but none of `models`."""
        if not models:
            return self
        lists = (self.tiers, self.larger, self.lenient)
        kept = [[tier for tier in tiers if tier.model.name not in models] for tiers in lists]
        tiers, larger, lenient = map(tuple, kept)
        return replace(self.only(tiers), larger=larger, lenient=lenient)

    def only(self, tiers: Iterable[Tier]) -> Candidates:
        """These, but with `tiers` in the place of all that are tried first."""
        tiers = tuple(tiers)
        return replace(self, tiers=tiers, count=_count(tiers))

    def patience(self) -> float:
        """Seconds that a call may take from its first attempt on."""
        if self.rules.deadline_seconds is not None:
            return self.rules.deadline_seconds
        totals = (each.timeouts.total for tier in self.tiers for each in tier.deployments)
        return max(DEFAULT_DEADLINE, *totals)

    def deployment_ids(self) -> set[str]:
        """Of the models that a call may come to, those included that this caller may not use: the
        same for all callers."""
        return {each.id for tier in self.every_tier() for each in tier.model.deployments}


def _count(tiers: Iterable[Tier]) -> int:
    return sum(len(tier.members) for tier in tiers)


class Rights(msgspec.Struct, frozen=True):
    """What routing asks about a candidate. Each answers with a reason to drop it, or None."""

    model: Callable[[str], str | None]
    zone: Callable[[str], str | None]
    price: Callable[[str, str], str | None]


class Roster:
    """Everybody of one configuration: who is balanced by whom. `members` by deployment id,
    `balancers` by model name."""

    __slots__ = ("balancers", "members")

    def __init__(self, members: Mapping[str, Member], balancers: Mapping[str, Balancer]) -> None:
        self.members = members
        self.balancers = balancers

    def tiers(self, model: Model, deployments: Iterable[Deployment]) -> Iterator[Tier]:
        """Those of `model`, the lowest number of priority first."""
        by_priority: dict[int, list[Member]] = {}
        for deployment in deployments:
            member = self.members[deployment.id]
            by_priority.setdefault(deployment.priority, []).append(member)
        for _, members in sorted(by_priority.items()):
            capped = any(member.caps is not None for member in members)
            yield Tier(model, tuple(members), self.balancers[model.name], capped)


def candidates(
    name: str,
    models: Mapping[str, Model],
    rights: Rights,
    roster: Roster,
    before: Iterable[str] = (),
) -> Candidates:
    """The candidates for public model `name`, with those that were dropped. Fallbacks are the
    asked model's own list: a fallback's fallbacks do not count, so that the list in the
    configuration is the list that is tried. Models `before` come between it and its fallbacks."""
    asked = models[name]
    dropped: dict[str, Dropped] = {}

    def tiers(names: Iterable[str]) -> Iterator[Tier]:
        for each in dict.fromkeys(names):
            allowed = _allowed(models[each], rights, dropped)
            yield from roster.tiers(models[each], allowed)

    own = tuple(tiers((name, *before, *asked.fallbacks)))
    larger = tuple(tiers(asked.context_fallbacks))
    lenient = tuple(tiers(asked.content_policy_fallbacks))
    found = Candidates.of(own, dropped.values(), larger, lenient)
    return replace(found, model=name, rules=asked.rules)


def _allowed(model: Model, rights: Rights, dropped: dict[str, Dropped]) -> Iterator[Deployment]:
    """What may be used of `model`. Adds to `dropped`."""
    refusal = rights.model(model.name)
    for deployment in model.deployments:
        reason = refusal or rights.zone(deployment.zone) or rights.price(model.name, deployment.id)
        if reason:
            dropped[deployment.id] = Dropped(deployment.id, reason)
        else:
            yield deployment


class Round(msgspec.Struct, frozen=True):
    """What a call may try of one tier now: `eligible` are those that are plainly well, `late` those
    that are well but have not their turn in this call (they ramp up), and come behind. `dropped`
    are those in whose way something stands; a tier where that is so for all has nobody."""

    tier: Tier
    eligible: Sequence[Member]
    late: Sequence[Member] = ()
    dropped: tuple[Dropped, ...] = ()
    turns: Sequence[tuple[DeploymentState, float]] = ()
    """Of those that ramp up, what they have saved up of their next turn after this call."""

    def picks(self, call: Call) -> Iterator[tuple[Member, Sequence[Member]]]:
        """Whom `call` tries one after the other as long as nothing changes, each with those among
        whom it is chosen: the balancer's pick among all, then among those that are left."""
        for group in (self.eligible, self.late):
            left = group
            while len(left) > 1:
                member = self.tier.balancer.pick(call, left)
                yield member, left
                left = [each for each in left if each is not member]
            if left:
                yield left[0], left

    def ordered(self, call: Call) -> tuple[Deployment, ...]:
        """The deployments in that order."""
        return tuple(member.deployment for member, _ in self.picks(call))

    def took(self, call: Call, member: Member, among: Sequence[Member]) -> None:
        """`call` goes to `member`, one of `picks`."""
        if len(among) > 1:
            self.tier.balancer.took(call, member, among)
        for state, turn in self.turns:
            state.turn = turn


def plan(
    call: Call,
    found: Candidates,
    memory: RoutingMemory,
    tokens: int = 0,
    tried: Collection[Member] = (),
) -> Iterator[Round]:
    """Whom `call`, which may use so many `tokens`, tries: tier by tier, without those that it has
    `tried`. Each round is made when it is reached. Behind the last one comes, if there is one, the
    least bad of those in whose way something stands that may give way: it is tried rather than
    nobody. Changes nothing, so that `explain` can ask as well as a call does."""
    blocked: list[tuple[float, Tier, Member]] = []
    for tier in found.tiers:
        if memory.troubled or tier.capped or tried:
            yield _careful(tier, memory, tokens, tried, blocked)
        else:
            yield Round(tier, tier.members)
    if blocked:
        _, tier, member = min(blocked, key=lambda each: each[0])
        yield Round(tier, (member,))


def _careful(
    tier: Tier,
    memory: RoutingMemory,
    tokens: int,
    tried: Collection[Member],
    blocked: list[tuple[float, Tier, Member]],
) -> Round:
    """The round of a tier when something may stand in the way; adds to `blocked` those that are
    left out but might be tried."""
    now, troubled = memory.clock(), memory.troubled
    eligible: list[Member] = []
    late: list[Member] = []
    dropped: list[Dropped] = []
    turns: list[tuple[DeploymentState, float]] = []
    for member in tier.members:
        if member in tried:
            continue
        full = member.caps.full(tokens) if member.caps is not None else None
        state = member.state
        obstacle = standing(state, now) if troubled else None
        if obstacle is not None:
            dropped.append(Dropped(member.deployment.id, obstacle.reason))
            if full is None and not obstacle.hard:
                blocked.append((obstacle.until, tier, member))
        elif full is not None:
            dropped.append(Dropped(member.deployment.id, full[1]))
        elif not state.ramping:
            eligible.append(member)
        else:
            turn = state.turn + memory.ramp.share(state.since, now)
            (eligible if turn >= 1.0 else late).append(member)
            turns.append((state, turn - 1.0 if turn >= 1.0 else turn))
    if not eligible:
        eligible, late = late, []
    return Round(tier, eligible, late, tuple(dropped), turns)
