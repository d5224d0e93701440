"""What a limiter does that several processes share, in one: its reservations have a lease. With it
the suite for such limiters is tested, and whoever writes one can read what is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.limits.memory import MemoryLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.limits.meters import BoundMeters
    from llmgw_core.limits.port import Demand
    from llmgw_core.limits.ticket import Ticket


class LeasedLimiter(MemoryLimiter):
    """As the one in memory; what is not renewed for `lease` seconds has expired."""

    def __init__(self, clock: Callable[[], float], lease: float = 30.0) -> None:
        super().__init__(clock)
        self.lease = lease
        self._leases: dict[int, tuple[Ticket, float]] = {}

    def reserve_now(self, bound: BoundMeters, tokens: int, demand: Demand | None = None) -> Ticket:
        """See the port."""
        self._expire()
        ticket = super().reserve_now(bound, tokens, demand)
        self._leases[id(ticket)] = (ticket, self.clock() + self.lease)
        return ticket

    async def renew(self, reservations: Sequence[Ticket]) -> None:
        """See the port."""
        self._expire()
        for ticket in reservations:
            if id(ticket) in self._leases:
                self._leases[id(ticket)] = (ticket, self.clock() + self.lease)

    def _expire(self) -> None:
        now = self.clock()
        for key, (ticket, end) in list(self._leases.items()):
            if not ticket.open or end <= now:
                del self._leases[key]
                ticket.expire()
