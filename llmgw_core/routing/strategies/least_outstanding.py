"""To whoever has the least to do, relative to the weight: calls and tokens in flight.

A call in flight counts as its tokens (input, and output as far as it was reserved) and as
`call_tokens` besides, since many small calls are work too. Among equals it is taken in turns.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Annotated

import msgspec

from llmgw_core.routing.strategies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import BalancerContext, Member


CALL_TOKENS = 500
"""As how many tokens a call counts besides its own, unless it is configured."""


class LeastOutstandingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`call_tokens`: as how many tokens a call counts besides its own; the higher, the more the
    number of calls matters, and the less their size."""

    call_tokens: Annotated[int, msgspec.Meta(ge=1)] = CALL_TOKENS


class LeastOutstanding:
    """The idlest."""

    Options = LeastOutstandingOptions

    def __init__(self, context: BalancerContext) -> None:
        options: LeastOutstandingOptions = context.options
        self._call_tokens = options.call_tokens
        self._turns = RoundRobin()

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """See the port."""
        return self._turns.pick(call, idlest(members, self._call_tokens))

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """See the port. Only those who had as little to do had a turn."""
        self._turns.took(call, member, idlest(members, self._call_tokens))


def idlest(members: Sequence[Member], call_tokens: int) -> Sequence[Member]:
    """Those of `members` with the least in flight for their weight: usually one, all of them when
    nothing is."""
    least = inf
    found: list[Member] = []
    for member in members:
        state = member.state
        calls = state.in_flight + state.others
        load = (state.tokens_in_flight + calls * call_tokens) / member.weight
        if load < least:
            least = load
            found = [member]
        elif load == least:
            found.append(member)
    return found
