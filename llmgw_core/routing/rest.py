"""Who is to be left alone after a failure, and until when: rate limits, refused credentials, and
upstreams that say when to come back. None of it is sickness; the breaker does not hear of it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from llmgw_core.routing.key_ring import KeyRing
from llmgw_core.routing.state import Obstacle

if TYPE_CHECKING:
    from llmgw_core.domain.credential import Credential
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.domain.failure import UpstreamFailure
    from llmgw_core.routing.state import RoutingMemory

RATE_LIMITED = "rate limited"
REFUSED = "credentials"
BUSY = "overloaded"


def ring_of(memory: RoutingMemory, deployment: Deployment) -> KeyRing:
    """The credentials of `deployment` with what is remembered of them."""
    state = memory.states[deployment.identity]
    if state.keys is None:
        state.keys = KeyRing(deployment.credentials or (deployment.credential,))
    return state.keys


def another_key(memory: RoutingMemory, deployment: Deployment) -> bool:
    """Whether there is a credential that nothing speaks against."""
    keys = memory.states[deployment.identity].keys
    return keys is not None and keys.usable(memory.clock())


def leave_alone(
    memory: RoutingMemory,
    deployment: Deployment,
    credential: Credential,
    secret: str,
    failure: UpstreamFailure,
) -> None:
    """Note what `failure` says about `deployment` and about the credential that was used, whose
    value was `secret`. What no upstream has said counts for nothing."""
    if failure.ours or not failure.status:
        return
    now, rules = memory.clock(), deployment.rules
    if failure.kind == "rate_limited":
        keys = ring_of(memory, deployment)
        keys.cool(
            credential,
            now,
            failure.retry_after,
            first=rules.cooldown_seconds,
            longest=rules.cooldown_max_seconds,
        )
        _put(memory, deployment, keys, RATE_LIMITED, "rate limited (429)")
    elif failure.kind == "credentials":
        keys = ring_of(memory, deployment)
        keys.refuse(credential, secret, now, now + rules.credential_rest_seconds)
        reason = f"its credentials are refused ({failure.status})"
        _put(memory, deployment, keys, REFUSED, reason)
    elif failure.kind == "overloaded" and failure.retry_after:
        until = now + min(failure.retry_after, rules.cooldown_max_seconds)
        memory.put(deployment, Obstacle(BUSY, f"overloaded ({failure.status})", until))


def _put(
    memory: RoutingMemory, deployment: Deployment, keys: KeyRing, kind: str, reason: str
) -> None:
    """The deployment as a whole is left alone when all of its credentials are."""
    now = memory.clock()
    if not keys.usable(now):
        over = partial(_usable, keys, memory)
        memory.put(deployment, Obstacle(kind, reason, keys.free_at(now), over=over))


def _usable(keys: KeyRing, memory: RoutingMemory) -> bool:
    return keys.usable(memory.clock())
