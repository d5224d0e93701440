"""Two drawn at random, and of these the one where a call is expected to wait less.

Expected is the latency (peak EWMA, see `routing.latency`) times what is in flight. Choosing among
two instead of all keeps gateways that see the same numbers from all running to the same deployment
(Mitzenmacher's power of two choices). The two are drawn by weight and are never the same one: of
two deployments that would send every fourth call to the worse one, whatever it costs. It stays in
reach nevertheless, since what was observed long ago counts for less and less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.routing.balance import BalancerContext, Member


class PeakEwmaChoice:
    """The better of two."""

    def __init__(self, context: BalancerContext) -> None:
        self._clock = context.clock
        self._random = context.random.random
        self._first = self._random()
        self._second = self._random()

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """See the port. The random numbers of the next call are drawn in advance."""
        if len(members) == 1:
            return members[0]
        one = _drawn(members, self._first, None)
        other = _drawn(members, self._second, one)
        return self._better(call, one, other)

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """See the port."""
        self._first = self._random()
        self._second = self._random()

    def _better(self, call: Call, one: Member, other: Member) -> Member:
        if call.request.stream:
            first, second = one.state.first_content, other.state.first_content
        else:
            first, second = one.state.complete, other.state.complete
        now = self._clock()
        # Who is not known is taken to be as fast as the one who is; see `PeakEwma.toward`.
        if first.seconds is None or second.seconds is None:
            wait = other_wait = 1.0
        elif first.at <= second.at:  # the older news is judged by the newer
            other_wait = second.seconds
            wait = first.toward(other_wait, now)
        else:
            wait = first.seconds
            other_wait = second.toward(wait, now)
        scale = (one.weight + other.weight) / 2
        cost = wait * (1 + _calls(one) * scale / one.weight)
        other_cost = other_wait * (1 + _calls(other) * scale / other.weight)
        return one if cost <= other_cost else other


def _calls(member: Member) -> int:
    return member.state.in_flight + member.state.others


def _drawn(members: Sequence[Member], number: float, without: Member | None) -> Member:
    """One of `members`, drawn by weight with `number` from [0, 1), but not `without`."""
    total = sum(member.weight for member in members)
    if without is not None:
        total -= without.weight
    left = number * total
    drawn = members[0]
    for member in members:
        if member is without:
            continue
        drawn = member
        left -= member.weight
        if left < 0:
            break
    return drawn
