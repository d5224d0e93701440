"""A plugin's balancer, kept from doing harm: where it fails, the deployments take turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.hooks.foreign import Foreign
from llmgw_core.routing.strategies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.routing.balance import Balancer, Member


class ForeignBalancer:
    """Implements `routing.balance.Balancer` with `made`, which is registered as `name`. When that
    raises, or picks somebody whom it was not given, the log says so and the call goes on."""

    def __init__(self, made: Balancer, name: str) -> None:
        self.made = made
        who = f"balancer `{name}`"
        self._picking = Foreign(who, "pick", "continue", passes=())
        self._taking = Foreign(who, "took", "continue", passes=())
        self._forgetting = Foreign(who, "forget", "continue", passes=())
        self._turns = RoundRobin()

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """See the port."""
        with self._picking:
            member = self.made.pick(call, members)
            if any(member is each for each in members):
                return member
            raise ValueError("it picked somebody whom it was not given")
        return self._turns.pick(call, members)

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """See the port."""
        with self._taking:
            self.made.took(call, member, members)
        self._turns.took(call, member, members)

    def forget(self, deployments: Iterable[Deployment]) -> None:
        """Their weights have changed, or they are gone. A balancer need not have this."""
        forget = getattr(self.made, "forget", None)
        if forget is not None:
            with self._forgetting:
                forget(deployments)

    async def aclose(self) -> None:
        """Nobody uses it any more. A balancer need not have this."""
        if hasattr(self.made, "aclose"):
            await self.made.aclose()
