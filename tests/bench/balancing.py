"""What the balancers make of engines that are not alike: tables of docs/explanation/balancing.md.

Virtual time and seeds: the same on every machine, in seconds. `nox -s bench` prints the tables
before it measures anything; `python tests/bench/balancing.py` prints them alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from llmgw_core.domain.limits import Limits
from llmgw_core.routing.strategies import BALANCERS
from llmgw_core.testing.simulated_engines import EngineSpec, Outcome, Traffic, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 240
WITHIN = 2.0
"""Seconds to the first content that a caller is content with."""

UNEQUAL = (
    EngineSpec("fast-1", speed=2.0, slots=16, price=2),
    EngineSpec("fast-2", speed=2.0, slots=16, price=2),
    EngineSpec("usual-1", price=1),
    EngineSpec("usual-2", price=1),
    EngineSpec("slow", speed=0.25, price=1),
    EngineSpec("flapping", price=1, down=tuple((at, at + 10.0) for at in range(20, SECONDS, 30))),
)
"""Two are fast, one is slow, one is down ten seconds of every thirty; the gateway is told nothing
of that, all have the same weight."""

EQUAL = tuple(EngineSpec(f"engine-{number}", cache=16) for number in range(1, 5))
"""Four of a kind whose caches hold a sixth of what is asked about."""


class Row(NamedTuple):
    """One line of a table."""

    balancer: str
    outcome: Outcome

    def unequal(self) -> str:
        """In the table of unequal engines."""
        done = self.outcome
        return (
            f"| `{self.balancer}` | {done.wait(0.5):.2f} | {done.wait(0.99):.1f}"
            f" | {done.goodput(WITHIN):.1%} | {done.failed / done.calls:.1%}"
            f" | {done.served['slow'] / done.calls:.1%} |"
        )

    def prefixes(self) -> str:
        """In the table of prompts with common beginnings."""
        done = self.outcome
        least = min(done.served[each.name] for each in EQUAL)
        return (
            f"| `{self.balancer}` | {done.hit_rate():.1%} | {done.wait(0.5):.2f}"
            f" | {done.wait(0.9):.2f} | {done.goodput(WITHIN):.1%} | {least / done.calls:.1%} |"
        )


def unequal(rate: float = 24.0, seconds: float = SECONDS) -> Iterator[Row]:
    """Every balancer with the unequal engines, at about half of what they can do together."""
    for name, make in BALANCERS.items():
        engines: tuple[EngineSpec, ...] = UNEQUAL
        if name == "cheapest":  # without caps it would send everything to the cheap ones
            engines = tuple(
                EngineSpec(
                    each.name,
                    each.speed,
                    each.slots,
                    each.down,
                    price=each.price,
                    caps=Limits(parallel=each.slots),
                )
                for each in UNEQUAL
            )
        yield Row(name, simulate(make, engines, Traffic(rate, seconds, prefixes=100)))


def prefixes(rate: float = 10.0, seconds: float = SECONDS) -> Iterator[Row]:
    """Long prompts that begin in a hundred ways, and engines that remember some of them."""
    traffic = Traffic(rate, seconds, prompt=8000, answer=50, prefixes=100)
    for name, make in BALANCERS.items():
        if name != "cheapest":  # of equal prices it is `least_outstanding`
            yield Row(name, simulate(make, EQUAL, traffic))


UNEQUAL_HEAD = """\
| balancer | p50 (s) | p99 (s) | goodput | failed | share of the slow one |
| --- | ---: | ---: | ---: | ---: | ---: |"""
PREFIXES_HEAD = """\
| balancer | in the cache | p50 (s) | p90 (s) | goodput | least share of an engine |
| --- | ---: | ---: | ---: | ---: | ---: |"""


def tables() -> str:
    """Both of them, as they stand in the documentation."""
    logging.getLogger("llmgw.health").disabled = True
    first = [UNEQUAL_HEAD, *(row.unequal() for row in unequal())]
    second = [PREFIXES_HEAD, *(row.prefixes() for row in prefixes())]
    return "\n".join((*first, "", *second))


if __name__ == "__main__":
    print(tables())
