"""To whoever serves the call for the least money; among equals to the idlest.

What a call costs is asked when it is planned, with the tokens that it is expected to use: prices
may be per call, and differ between input and output. Nobody else gets a call until the cheapest
cannot take it: give it caps, or the others are only there when it is ill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.routing.strategies.least_outstanding import (
    LeastOutstanding,
    LeastOutstandingOptions,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import BalancerContext, Member


class Cheapest:
    """The one with the lowest price of the call."""

    Options = LeastOutstandingOptions

    def __init__(self, context: BalancerContext) -> None:
        self._among_equals = LeastOutstanding(context)

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """See the port."""
        return self._among_equals.pick(call, _cheapest(call, members))

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """See the port."""
        self._among_equals.took(call, member, _cheapest(call, members))


def _cheapest(call: Call, members: Sequence[Member]) -> Sequence[Member]:
    least = None
    found: list[Member] = []
    for member in members:
        price = member.price(call)
        if least is None or price < least:
            least = price
            found = [member]
        elif price == least:
            found.append(member)
    return found
