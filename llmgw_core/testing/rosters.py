"""Deployments to be balanced in tests and simulations: without a configuration and without a
gateway around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.domain.call import Call, Head
from llmgw_core.routing.balance import Member
from llmgw_core.routing.plan import Roster
from llmgw_core.routing.state import RoutingMemory
from llmgw_core.testing.clock import FakeClock
from llmgw_core.wire.request import decode_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmgw_core.domain.call import Headers
    from llmgw_core.domain.deployment import Deployment, Model
    from llmgw_core.routing.balance import Balancer

HELLO = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}'


def a_call(body: bytes = HELLO, headers: Headers = ()) -> Call:
    """A chat call with that body."""
    call = Call("c", "chat.completions", Head("POST", "/v1/chat/completions", headers), 0.0, 0)
    call.request = decode_request(body, "chat.completions")
    return call


def members_of(
    deployments: Sequence[Deployment], memory: RoutingMemory | None = None
) -> tuple[Member, ...]:
    """Members with states of `memory` (default: of their own)."""
    memory = memory or RoutingMemory(FakeClock())
    memory.adopt(deployments)
    memory.begin()
    return tuple(Member(each, memory.states[each.identity]) for each in deployments)


def roster_of(
    models: Mapping[str, Model], balancer: Balancer, memory: RoutingMemory | None = None
) -> Roster:
    """Everybody in `models`, all balanced by `balancer`."""
    everybody = [each for model in models.values() for each in model.deployments]
    members = {member.deployment.id: member for member in members_of(everybody, memory)}
    return Roster(members, dict.fromkeys(models, balancer))


def turn(balancer: Balancer, call: Call, members: Sequence[Member]) -> Member:
    """Whom `call` goes to; it is over at once."""
    member = balancer.pick(call, members)
    balancer.took(call, member, members)
    return member
