"""The gateway's own balancers by name. They implement `routing.balance.Balancer`, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llmgw_core.routing.strategies.affinity import PrefixAffinity, SessionAffinity
from llmgw_core.routing.strategies.cheapest import Cheapest
from llmgw_core.routing.strategies.least_outstanding import LeastOutstanding
from llmgw_core.routing.strategies.peak_ewma import PeakEwmaChoice
from llmgw_core.routing.strategies.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.routing.balance import Balancer, BalancerContext

BALANCERS: Final[dict[str, Callable[[BalancerContext], Balancer]]] = {
    "round_robin": RoundRobin,
    "least_outstanding": LeastOutstanding,
    "peak_ewma": PeakEwmaChoice,
    "cheapest": Cheapest,
    "prefix_affinity": PrefixAffinity,
    "session_affinity": SessionAffinity,
}
