"""Numbers into a table, a file and a verdict."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from load import Kind, Run

BASE = "nginx"
BOUNDS = {
    "uvicorn": {"chat": 5.0, "chat20": 5.0, "embed": 5.0, "stream": 2.6},
    "hypercorn": {"chat": 16.0, "chat20": 16.0, "embed": 16.0, "stream": 3.8},
}
"""Highest CPU cost allowed, in multiples of nginx's in the same round."""


@dataclass(frozen=True)
class Line:
    """One server and kind of call: medians, with the lowest and highest of the rounds.
    `cost` in CPU microseconds per request or per event of a stream."""

    server: str
    kind: str
    unit: str
    cost: float
    cost_low: float
    cost_high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    bound: float | None
    rate: float
    p50_ms: float
    p99_ms: float
    rounds: int

    @property
    def passed(self) -> bool:
        """Whether the median ratio is within its bound."""
        return self.bound is None or self.ratio <= self.bound


@dataclass(frozen=True)
class Fact:
    """One more number with its bound."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the value is within its bound."""
        return self.bound is None or self.value <= self.bound


def line(server: str, kind: Kind, runs: list[Run], base: list[Run]) -> Line:
    """The rounds of one server beside those of the base, round by round."""
    costs = [run.cost(kind) for run in runs]
    ratios = [cost / other.cost(kind) for cost, other in zip(costs, base, strict=True)]
    return Line(
        server=server,
        kind=kind.name,
        unit=kind.unit,
        cost=statistics.median(costs),
        cost_low=min(costs),
        cost_high=max(costs),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        bound=BOUNDS.get(server, {}).get(kind.name),
        rate=statistics.median(run.answered / run.seconds for run in runs),
        p50_ms=statistics.median(run.p50_us for run in runs) / 1000,
        p99_ms=statistics.median(run.p99_us for run in runs) / 1000,
        rounds=len(runs),
    )


def show(lines: list[Line], facts: list[Fact]) -> None:
    """Print everything."""
    print(
        f"\n{'server':<10} {'call':<7} {'CPU µs per':<11} {'median':>7} {'spread':>15}"
        f" {'x nginx':>8} {'spread':>13} {'bound':>6} {'calls/s':>8} {'p50 ms':>8} {'p99 ms':>8}"
    )
    for one in lines:
        bound = f"{one.bound:g}" if one.bound is not None else "-"
        print(
            f"{one.server:<10} {one.kind:<7} {one.unit:<11} {one.cost:>7.1f}"
            f" {one.cost_low:>7.1f}-{one.cost_high:<7.1f} {one.ratio:>8.2f}"
            f" {one.ratio_low:>6.2f}-{one.ratio_high:<6.2f} {bound:>6} {one.rate:>8.0f}"
            f" {one.p50_ms:>8.2f} {one.p99_ms:>8.2f}{'' if one.passed else '  ABOVE ITS BOUND'}"
        )
    print()
    for fact in facts:
        bound = f"  (at most {fact.bound:g})" if fact.bound is not None else ""
        print(
            f"{fact.name:<58} {round(fact.value, 3):>10,} {fact.unit}{bound}"
            f"{'' if fact.passed else '  ABOVE ITS BOUND'}"
        )


def save(path: Path, lines: list[Line], facts: list[Fact], setup: dict[str, Any]) -> None:
    """Write everything as JSON."""
    value = {
        "setup": setup,
        "lines": [{**asdict(one), "passed": one.passed} for one in lines],
        "facts": [{**asdict(fact), "passed": fact.passed} for fact in facts],
    }
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
