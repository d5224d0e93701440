"""Plain counters of the gateway: dictionaries of integers, so that counting costs nothing on the
hot path. The server turns them into Prometheus metrics when it is asked.
"""

from __future__ import annotations

from collections import defaultdict

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


class Stats:
    """What happened since start. Keys of the dictionaries are label values, in the order of the
    field's comment; model names are only those of the configuration (bounded cardinality).
    """

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        """(endpoint, model, HTTP status) → replies."""
        self.tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(model, "input" | "output") → tokens settled."""
        self.charge_nano: defaultdict[str, int] = defaultdict(int)
        """model → nano-units charged."""
        self.attempts: defaultdict[tuple[str, str], int] = defaultdict(int)
        """(deployment id, outcome) → attempts."""
        self.refusals: defaultdict[str, int] = defaultdict(int)
        """error code → calls refused before admission."""
        self.durations: defaultdict[str, list[int]] = defaultdict(
            lambda: [0] * (len(DURATION_BUCKETS) + 1)
        )
        """endpoint → calls per bucket (not cumulated), the last for "above"."""
        self.duration_us: defaultdict[str, int] = defaultdict(int)
        """endpoint → summed microseconds."""
        self.in_flight = 0
        """Admitted calls that are not settled."""
        self.bugs_total = 0
        """Unexpected exceptions at the edge: anything but 0 is a bug of the gateway."""
