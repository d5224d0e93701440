"""The same prompt, or the same session, to the same deployment, as long as that is not too busy.

Who is at home where is decided by rendezvous hashing (Thaler and Ravishankar 1998): every
deployment gets a score from the key and its own id, the best is the key's home. No table is kept,
all gateways agree without talking, and a deployment that comes or goes moves only its own keys.
Shares follow the weights.

Affinity yields to load (consistent hashing with bounded loads, Mirrokni, Thorup and Zadimoghaddam
2018): nobody gets a call that would lift its calls in flight above `bound` times its share of all
of them; the call goes to the key's next home instead, always the same one. A small share explores:
it goes to the idlest, so that every deployment is seen to work, also when no key is at home there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import ceil, inf, log
from typing import TYPE_CHECKING, Annotated

import msgspec

from llmgw_core.routing.strategies.affinity_keys import prefix_key, session_key
from llmgw_core.routing.strategies.least_outstanding import CALL_TOKENS, idlest
from llmgw_core.routing.strategies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import BalancerContext, Member

_MASK = 2**64 - 1
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class PrefixOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`prefix_bytes`: how much of the beginning of tools and messages is looked at. `field`: a
    field of the request whose value, if there is one, is looked at instead. `bound`: how many
    times its share of the calls in flight a deployment may have, at least 1. `always`: so many
    calls in flight are never too many. `explore`: the share of the calls, from 0 to 1, that goes
    to the idlest whatever their prompt."""

    prefix_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1024
    field: str = "prompt_cache_key"
    bound: Annotated[float, msgspec.Meta(ge=1)] = 1.25
    always: Annotated[int, msgspec.Meta(ge=0)] = 4
    explore: Share = 0.01


class SessionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`header`: the request header that names the session; without it, `field`, a field of the
    request, does. `bound`, `always` and `explore` as for prefixes."""

    header: str = "x-session-id"
    field: str = "user"
    bound: Annotated[float, msgspec.Meta(ge=1)] = 1.25
    always: Annotated[int, msgspec.Meta(ge=0)] = 4
    explore: Share = 0.0


class _Affinity(ABC):
    """What both kinds have in common; `_key` is theirs."""

    def __init__(self, context: BalancerContext) -> None:
        options: PrefixOptions | SessionOptions = context.options
        self._bound = options.bound
        self._always = options.always
        self._explore = options.explore
        self._random = context.random.random
        self._number = self._random()
        self._turns = RoundRobin()

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """See the port."""
        key = self._homing(call)
        if key is None:
            return self._turns.pick(call, idlest(members, CALL_TOKENS))
        return home(key, members, self._bound, self._always)

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """See the port."""
        if self._homing(call) is None:
            self._turns.took(call, member, idlest(members, CALL_TOKENS))
        self._number = self._random()

    def _homing(self, call: Call) -> int | None:
        """The key by which the call is placed; None if it has none, or explores."""
        return None if self._number < self._explore else self._key(call)

    @abstractmethod
    def _key(self, call: Call) -> int | None:
        """The key by which the call is placed, if it has one."""


class PrefixAffinity(_Affinity):
    """By the beginning of the prompt: engines have it in their KV cache."""

    Options = PrefixOptions

    def __init__(self, context: BalancerContext) -> None:
        super().__init__(context)
        options: PrefixOptions = context.options
        self._bytes = options.prefix_bytes
        self._field = options.field

    def _key(self, call: Call) -> int | None:
        return prefix_key(call, self._bytes, self._field)


class SessionAffinity(_Affinity):
    """By a header, or a field such as `user`."""

    Options = SessionOptions

    def __init__(self, context: BalancerContext) -> None:
        super().__init__(context)
        options: SessionOptions = context.options
        self._header = options.header.lower().encode("latin-1")
        self._field = options.field

    def _key(self, call: Call) -> int | None:
        return session_key(call, self._header, self._field)


def home(key: int, members: Sequence[Member], bound: float, always: int) -> Member:
    """Where `key` is at home among those of `members` that one more call would not make too
    busy. There is always one: not all can have more than their share."""
    calls, weights = 1, 0
    for member in members:
        calls += member.state.in_flight + member.state.others
        weights += member.weight
    share = bound * calls / weights
    found, lowest = members[0], inf
    for member in members:
        weight = member.weight
        load = member.state.in_flight + member.state.others
        if load >= always and load >= ceil(share * weight):
            continue
        distance = -log(_uniform(key ^ member.seed)) / weight
        if distance < lowest:
            found, lowest = member, distance
    return found


def _uniform(bits: int) -> float:
    """A number from (0, 1) that looks like chance and is always the same for `bits`: the finish
    of SplitMix64 (Steele, Lea and Flood 2014)."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return (((bits ^ (bits >> 31)) >> 11) + 0.5) / 2**53
