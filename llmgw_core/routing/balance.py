"""Balancing among the deployments of one model: the port, and smooth weighted round robin.

Each turn raises every deployment's credit by its weight, takes the highest and lowers it by the
sum: over any run of turns the shares are exact, and a heavy deployment is not picked in bursts
(the algorithm of nginx's upstream module).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment


class Balancer(Protocol):
    """Puts the deployments of one tier into the order in which a call tries them."""

    def order(self, call: Call, deployments: Sequence[Deployment]) -> Sequence[Deployment]:
        """All of `deployments`, the pick first. Changes nothing: asked twice, it says the same,
        so that a plan can be looked at without making a call."""
        ...

    def took(self, picked: Deployment, deployments: Sequence[Deployment]) -> None:
        """A call goes to `picked`, which `order` had put first of `deployments`."""
        ...


class SmoothRoundRobin:
    """Weighted round robin. Credits are kept per deployment id, so that calls which may use only
    a part of the deployments (zones) share the state with the others."""

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}

    def forget(self, deployments: Iterable[Deployment]) -> None:
        """Their weights have changed, or they are gone: whoever is left begins anew."""
        for deployment in deployments:
            self._credit.pop(deployment.id, None)

    def order(self, call: Call, deployments: Sequence[Deployment]) -> Sequence[Deployment]:
        """See the port. Behind the pick, the others come by their credit: after a failure the
        next one is the one whose turn is nearest."""
        if len(deployments) == 1:
            return deployments
        credit = self._credit
        return sorted(deployments, key=lambda each: -credit.get(each.id, 0) - each.weight)

    def took(self, picked: Deployment, deployments: Sequence[Deployment]) -> None:
        """See the port."""
        if len(deployments) == 1:
            return
        credit = self._credit
        total = 0
        for deployment in deployments:
            credit[deployment.id] = credit.get(deployment.id, 0) + deployment.weight
            total += deployment.weight
        credit[picked.id] -= total
