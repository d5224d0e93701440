"""What a supervisor does next: a pure table, no I/O, no clock.

An engine is started; if its *first* start fails, that is the end (the configuration is probably
wrong). Once it has been ready it is restarted, with growing delays, for as long as the gateway
lives.
"""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where an engine is in its life."""

    IDLE = "idle"
    STARTING = "starting"
    """The first start: the model is loading."""
    GIVING_UP = "giving up"
    """The first start took too long; the child has been killed but is not gone yet."""
    READY = "ready"
    BACKOFF = "backoff"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Event(enum.Enum):
    """What can happen to it."""

    START = "start"
    HEALTHY = "healthy"
    """The child answers its health check."""
    EXITED = "exited"
    """The child is gone. The last event of every child."""
    OVERDUE = "overdue"
    """The time for starting, or for stopping, is over."""
    DUE = "due"
    """The delay before a restart is over."""
    STOP = "stop"


class Action(enum.Enum):
    """What the supervisor has to do on a transition."""

    SPAWN = "spawn"
    """Start a child and the timer for its start."""
    TERMINATE = "terminate"
    """Ask the child to end and start the timer for that."""
    KILL = "kill"
    WAIT = "wait"
    """Start the timer for the next restart."""


FINAL = frozenset({State.STOPPED, State.FAILED})

TRANSITIONS: dict[tuple[State, Event], tuple[State, Action | None]] = {
    (State.IDLE, Event.START): (State.STARTING, Action.SPAWN),
    (State.IDLE, Event.STOP): (State.STOPPED, None),
    (State.STARTING, Event.HEALTHY): (State.READY, None),
    (State.STARTING, Event.EXITED): (State.FAILED, None),
    (State.STARTING, Event.OVERDUE): (State.GIVING_UP, Action.KILL),
    (State.STARTING, Event.STOP): (State.STOPPING, Action.TERMINATE),
    (State.GIVING_UP, Event.EXITED): (State.FAILED, None),
    (State.GIVING_UP, Event.STOP): (State.STOPPING, Action.KILL),
    (State.READY, Event.EXITED): (State.BACKOFF, Action.WAIT),
    (State.READY, Event.STOP): (State.STOPPING, Action.TERMINATE),
    (State.BACKOFF, Event.DUE): (State.RESTARTING, Action.SPAWN),
    (State.BACKOFF, Event.STOP): (State.STOPPED, None),
    (State.RESTARTING, Event.HEALTHY): (State.READY, None),
    (State.RESTARTING, Event.EXITED): (State.BACKOFF, Action.WAIT),
    (State.RESTARTING, Event.OVERDUE): (State.RESTARTING, Action.KILL),
    (State.RESTARTING, Event.STOP): (State.STOPPING, Action.TERMINATE),
    (State.STOPPING, Event.OVERDUE): (State.STOPPING, Action.KILL),
    (State.STOPPING, Event.EXITED): (State.STOPPED, None),
}


def step(state: State, event: Event) -> tuple[State, Action | None]:
    """The next state, and what to do. A pair that is not in the table is news that came too
    late (a timer that fired while the child was ending) and changes nothing."""
    return TRANSITIONS.get((state, event), (state, None))


def restart_delay(
    failures: int, randomness: float, *, base: float = 0.5, cap: float = 30.0
) -> float:
    """Seconds to wait before restart number `failures` (from 1) in a row: doubling from `base`
    up to `cap`, of which `randomness` (0 to 1) takes away up to half, so that engines that died
    together do not load together."""
    full: float = min(cap, base * 2.0 ** min(failures - 1, 32))
    return full * (1.0 - 0.5 * randomness)
