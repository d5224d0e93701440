"""Which lane a call to an alias takes: by weights, by a canary that is under way, and always the
same one for the same user, session or key.

A variant that the principal may not use at all (no grant, no allowed zone, no price, retired) is
none of his: the others share his calls. Everything is compiled; a call costs one hash per variant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from llmgw_core.routing.rollouts import Trial
from llmgw_core.routing.variants import Lots, in_share, lots_of_canary, lots_of_variant, pick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llmgw_core.domain.alias import Alias
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Model
    from llmgw_core.routing.rollouts import LiveRollouts, Rollout


class Observed(Protocol):
    """A lane, as far as it matters here."""

    trial: Trial | None

    @property
    def direct(self) -> bool:
        """Whether the model itself can serve, and not only what stands in for it."""
        ...


L = TypeVar("L", bound=Observed)


class Usable(msgspec.Struct, Generic[L], frozen=True):
    """A variant that the principal may use."""

    name: str
    weight: int
    lots: Lots
    lane: L


class Variants(Generic[L]):
    """What an alias leads to for one principal. `compile(model, before)` makes the lane of a
    model, None if the principal may not use it; models `before` come before its fallbacks."""

    __slots__ = ("_compile", "_names", "_others", "listed")

    def __init__(
        self,
        listed: tuple[Usable[L], ...],
        names: Sequence[str],
        compile: Callable[[str, Iterable[str]], L | None],
    ) -> None:
        self.listed = listed
        self._names = names
        self._compile = compile
        self._others: dict[str, L | None] = {}

    @classmethod
    def of(
        cls, name: str, alias: Alias, compile: Callable[[str, Iterable[str]], L | None]
    ) -> Variants[L]:
        """Those of the configuration; where one fails the others stand in, the heaviest first. One
        whose own deployments are out of reach counts only if it is so with all of them: then what
        they fall back to is better than nobody."""
        names = [each.model for each in sorted(alias.variants, key=lambda each: -each.weight)]
        lanes = [(each, compile(each.model, names)) for each in alias.variants]
        usable = [
            Usable(each.model, each.weight, lots_of_variant(name, each.model), lane)
            for each, lane in lanes
            if lane is not None
        ]
        direct = [each for each in usable if each.lane.direct]
        return cls(tuple(direct or usable), names, compile)

    def canary(self, model: str) -> L | None:
        """The lane of a canary: what fails there goes on to what it is to replace."""
        if model not in self._others:
            lane = self._compile(model, self._names)
            self._others[model] = lane if lane is not None and lane.direct else None
        return self._others[model]


class AliasChoice(Generic[L]):
    """Chooses the lane of a call for one principal and one alias."""

    __slots__ = (
        "_alias",
        "_canary",
        "_live",
        "_lots",
        "_name",
        "_rollout",
        "_share",
        "variants",
    )

    def __init__(
        self, name: Model, alias: Alias, variants: Variants[L], live: LiveRollouts
    ) -> None:
        self.variants = variants
        self._name = name.name
        self._alias = alias
        # Vectors of two models cannot be compared, so nobody gets those of another one in passing.
        self._live = live if name.kind != "embedding" else None
        self._rollout: Rollout | None = None
        self._canary: L | None = None
        self._share = 0.0
        self._lots = Lots()

    @property
    def usable(self) -> bool:
        """Whether there is any lane to take."""
        return bool(self.variants.listed) or self._canary_now() is not None

    def lane(self, call: Call) -> L | None:
        """The lane that `call` takes; None when the principal may use no variant."""
        canary, listed = self._canary_now(), self.variants.listed
        if canary is None and len(listed) < 2:
            return listed[0].lane if listed else None
        mark = mark_of(self._alias, call)
        if canary is not None and in_share(self._lots, mark, self._share):
            return canary
        return pick(mark, listed).lane if listed else None

    def _canary_now(self) -> L | None:
        """The lane of the canary, if there is one at the moment and the principal may use it."""
        rollout = None if self._live is None else self._live.of(self._name)
        if rollout is not self._rollout:
            self._rollout = rollout
            self._canary = None if rollout is None else self._follow(rollout)
        return self._canary

    def _follow(self, rollout: Rollout) -> L | None:
        """Another rollout, or another state of it, holds from now on."""
        listed, live, rules = self.variants.listed, self._live, self._alias.canary
        assert live is not None
        running = rollout.state == "running"
        self._share = rollout.share if running else 100.0
        self._lots = lots_of_canary(self._name, rollout.model)
        canary = None
        # A canary shows nobody a name that he could not use before.
        if rollout.holds(self._alias.variants) and (listed or not running):
            canary = self.variants.canary(rollout.model)
        watched = running and canary is not None
        for each in listed:
            each.lane.trial = Trial(live, rollout, rules, each.name) if watched else None
        if canary is not None:
            canary.trial = Trial(live, rollout, rules, rollout.model) if watched else None
        return canary


def mark_of(alias: Alias, call: Call) -> str:
    """What makes calls the same for `alias`. What is chosen by clients counts within their
    organisation only. A call without any mark is by itself."""
    principal, sticky = call.principal, alias.sticky
    assert principal is not None
    if sticky == "call":
        return call.id
    organization = principal.organization_id
    if sticky == "session":
        session = call.head.get(alias.session_header.encode())
        if session:
            return f"session {organization} {session.decode('latin-1')}"
    if sticky != "key":
        user = call.request.get("user") if "user" in call.request.fields else None
        if isinstance(user, str) and user:
            return f"end user {organization} {user}"
        if principal.user_id is not None:
            return f"user {principal.user_id}"
    return f"key {principal.key_id}" if principal.key_id is not None else call.id
