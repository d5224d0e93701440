"""What to do after an attempt has failed: pure decisions, one place.

A call has a budget of attempts. A failure that is the client's fault is final, and nothing may
go elsewhere once content has been handed over (the content commit). A kept-alive connection that
died before any byte of a reply says nothing about the deployment: it is tried again once, on a
fresh connection, without costing an attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llmgw_core.domain.failure import FailureKind

Step = Literal["again", "next", "stop"]
"""`again`: same deployment, fresh connection. `next`: the next candidate. `stop`: give up."""


def next_step(
    kind: FailureKind,
    *,
    stale_connection: bool,
    committed: bool,
    attempts: int,
    budget: int,
    candidates_left: int,
) -> Step:
    """`attempts` have been made, the failed one included; `stale_connection`: the failed attempt
    used a kept-alive connection that died before any byte of a reply, for the first time on this
    deployment in this call."""
    if committed or kind == "client":
        return "stop"
    if stale_connection:
        return "again"
    if attempts >= budget or candidates_left < 1:
        return "stop"
    return "next"
