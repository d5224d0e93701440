"""The typed section `routing`: how calls find their deployment and what happens when one fails."""

from __future__ import annotations

import msgspec


class RoutingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`balancer`: who chooses among the deployments of a model. `round_robin` is the gateway's
    own (by weight, smooth); plugins may register others."""

    balancer: str = "round_robin"
