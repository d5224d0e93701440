"""Balancing among the deployments of one model: the port, and what balancers look at.

The gateway's own balancers are in `routing.strategies`; plugins register others.
"""

from __future__ import annotations

import random
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.routing.caps import Caps
    from llmgw_core.routing.state import DeploymentState


def free_of_charge(call: Call) -> int:
    """The price of a call where nobody has told one."""
    return 0


class Member:
    """One deployment among those that a balancer chooses from. `weight` is its configured share,
    `state` how busy and how fast it is, `price(call)` what the provider would bill for the call
    as far as is known (nano-units), `seed` 64 bits of a hash of its id, `caps` what may be sent
    to it (None: anything). Balancers look, and change nothing but `state.credit`."""

    __slots__ = ("caps", "deployment", "price", "seed", "state", "weight")

    def __init__(
        self,
        deployment: Deployment,
        state: DeploymentState,
        *,
        price: Callable[[Call], int] = free_of_charge,
        caps: Caps | None = None,
    ) -> None:
        self.deployment = deployment
        self.state = state
        self.weight = deployment.weight
        self.price = price
        self.caps = caps
        digest = blake2b(deployment.id.encode(), digest_size=8).digest()
        self.seed = int.from_bytes(digest, "big")

    def __repr__(self) -> str:
        """By its id."""
        return f"Member({self.deployment.id!r})"


class BalancerContext:
    """What a balancer is made with: its `options`, decoded as its class attribute `Options` says
    (None without one), a monotonic `clock` in seconds and a source of chance."""

    __slots__ = ("clock", "options", "random")

    def __init__(
        self,
        options: Any = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: random.Random | None = None,
    ) -> None:
        self.options = options
        self.clock = clock
        self.random = random if random is not None else _random()


def _random() -> random.Random:
    return random.Random()  # noqa: S311 -- who gets the next call is no secret


class Balancer(Protocol):
    """Chooses among the deployments of one tier. Both methods are called for every attempt and
    must not wait for anything. A class attribute `Options`, a msgspec Struct, says what
    `balancer_options` may hold."""

    def pick(self, call: Call, members: Sequence[Member]) -> Member:
        """One of `members`, of which there is at least one. Changes nothing: asked twice, it says
        the same, so that a plan can be looked at without making a call."""
        ...

    def took(self, call: Call, member: Member, members: Sequence[Member]) -> None:
        """The call goes to `member`, which was picked of `members`. Comes before its calls in
        flight are counted up."""
        ...
