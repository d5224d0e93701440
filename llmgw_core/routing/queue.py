"""The queue port: which of the calls that wait for a slot is next. Pure, without clock and I/O.

A slot is the right to have one more call in flight on a deployment. Who counts them, wakes calls
and ends those that wait too long is `pipeline.waiting`; a queue only says who it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    Fits = Callable[["Waiting"], bool]
    """Whether there is a slot for this call now."""


class Waiting:
    """A call that waits. `pool` stands for the deployments of which one would do, the same for
    all calls that those would do for. `organization` is the id of who calls; `priority` is
    0 for the most urgent class; an organisation of twice the `weight` is due twice as many slots.
    Compared by identity."""

    __slots__ = ("organization", "pool", "priority", "weight")

    def __init__(
        self, organization: str, pool: Hashable, *, priority: int = 1, weight: float = 1.0
    ) -> None:
        self.organization = organization
        self.pool = pool
        self.priority = priority
        self.weight = weight


class Queue(Protocol):
    """What a plugin registers with `register_queues`. All methods are synchronous, and must not
    take longer when more calls wait than a look at each of their organisations does."""

    def put(self, waiting: Waiting, limit: int) -> Waiting | None:
        """Let a call wait. When `limit` calls of its priority wait already, one of them has to
        leave, or the new one cannot stay: returns which, and has forgotten it; else None."""
        ...

    def take(self, fits: Fits) -> Waiting | None:
        """The next one among those that fit, which waits no longer; None if there is none. Of
        calls with the same pool and organisation only the first need be asked about: what holds
        for it holds for those behind it. `fits` does not change during the call."""
        ...

    def leave(self, waiting: Waiting) -> None:
        """A call waits no longer, for reasons of its own. Harmless if it does not wait."""
        ...

    def __len__(self) -> int:
        """How many wait."""
        ...


class NoQueue:
    """The queue in which nobody waits: who finds no slot is refused."""

    def put(self, waiting: Waiting, limit: int) -> Waiting | None:
        """There is no place."""
        return waiting

    def take(self, fits: Fits) -> Waiting | None:
        """Nobody waits."""

    def leave(self, waiting: Waiting) -> None:
        """Nobody waits."""

    def __len__(self) -> int:
        return 0
