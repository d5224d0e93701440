"""Taking turns by weight: smooth weighted round robin.

Each pick raises everybody's credit by the weight, takes the highest and lowers it by the sum: over
any run of picks the shares are exact, and a heavy deployment is not picked in bursts (the algorithm
of nginx's upstream module). Credits are kept with the deployments, so that calls which may use
only a part of them (zones, obstacles) share the turns with the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import BalancerContext, Member


class RoundRobin:
    """Whose turn it is."""

    def __init__(self, context: BalancerContext | None = None) -> None:
        """Nothing of a context is needed."""

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """See the port."""
        best, highest = members[0], float("-inf")
        for member in members:
            credit = member.state.credit + member.weight
            if credit > highest:
                best, highest = member, credit
        return best

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """See the port."""
        total = 0
        for each in members:
            weight = each.weight
            each.state.credit += weight
            total += weight
        member.state.credit -= total
