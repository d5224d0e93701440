"""Plain counters of the gateway: dictionaries of integers, so that counting costs nothing on the
hot path. The server turns them into Prometheus metrics when it is asked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict, deque
from typing import TYPE_CHECKING
from weakref import WeakSet

from llmgw_core.pipeline.overview import refusal

if TYPE_CHECKING:
    from collections.abc import Collection

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.errors import GatewayError
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.pipeline.books import Books
    from llmgw_core.pipeline.overview import Refusal

DURATION_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
)
"""Upper bounds in seconds, for the whole call."""


_REMEMBERED = 1000
"""Refusals whose reason can be asked for."""


class Tally:
    """What the settled calls of one endpoint, model and HTTP status add up to. `buckets` counts
    calls by duration (not cumulated), the last for "above" all bounds."""

    __slots__ = ("buckets", "calls", "charge_nano", "duration_us", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.charge_nano = 0
        self.duration_us = 0
        self.buckets = [0] * (len(DURATION_BUCKETS) + 1)


class Stats:
    """What happened since start. Keys of the dictionaries are label values, in the order of the
    field's comment; model names are only those of the configuration (bounded cardinality).
    """

    def __init__(self) -> None:
        self.calls: defaultdict[tuple[str, str, int], Tally] = defaultdict(Tally)
        """(endpoint, model, HTTP status) → settled calls."""
        self.attempts: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(deployment id, outcome) → attempts."""
        self.retries: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(model, `same`, `other` or `other_model`) → failed attempts after which a call went on
        there."""
        self.refused_credentials: defaultdict[str, int] = defaultdict(int)
        """deployment id → attempts whose credential the upstream refused."""
        self.shadowed: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(scope, unit) → calls that a limit in shadow mode would have refused."""
        self.refusals: defaultdict[str, int] = defaultdict(int)
        """error code → calls refused before admission."""
        self.refused: deque[Refusal] = deque(maxlen=_REMEMBERED)
        """The last of them, and of those that a limit stopped later."""
        self.books: WeakSet[Books] = WeakSet()
        """What settles calls: those of the configuration in force, and of older ones with calls."""
        self.unpriced: defaultdict[str, int] = defaultdict(int)
        """model → attempts that were booked at zero because there was no price."""
        self.unpriced_told: dict[str, float] = {}
        """model → when the log was last told of them, on the clock of the books."""
        self.in_flight = 0
        """Admitted calls that are not settled."""
        self.waiting = 0
        """Calls that wait for a slot now."""
        self.waits: defaultdict[str, int] = defaultdict(int)
        """outcome → calls that have waited for a slot: `served`, `timeout`, `full` (there was no
        place), `displaced` (by somebody who had less in the queue), `left` (the client)."""
        self.waited_seconds = 0.0
        """What they have waited together."""
        self.bugs_total = 0
        """Unexpected exceptions at the edge: anything but 0 is a bug of the gateway."""

    def attempts_on(self, deployments: Collection[str]) -> int:
        """Attempts that have ended on any of `deployments`."""
        return sum(count for key, count in self.attempts.items() if key[0] in deployments)

    def waited(self, outcome: str, seconds: float) -> None:
        """Count a call that waits no longer for a slot."""
        self.waits[outcome] += 1
        self.waited_seconds += seconds

    def refuse(self, call: Call, error: GatewayError) -> None:
        """Count a call that was refused before it was admitted."""
        self.refusals[error.code] += 1
        self.remember(call, error)

    def remember(self, call: Call, error: GatewayError) -> None:
        """Keep for a while what has decided about a call."""
        self.refused.append(refusal(call, error))

    def settled(self, record: UsageRecord) -> None:
        """Count a settled call."""
        self.in_flight -= 1
        tally = self.calls[record.endpoint, record.model, record.http_status]
        usage, duration = record.usage, record.duration_us
        tally.calls += 1
        tally.input_tokens += usage.input_tokens
        tally.output_tokens += usage.output_tokens
        tally.charge_nano += record.charge
        tally.duration_us += duration
        tally.buckets[bisect_left(_BOUNDS_US, duration)] += 1


_BOUNDS_US = tuple(int(bound * 1_000_000) for bound in DURATION_BUCKETS)
