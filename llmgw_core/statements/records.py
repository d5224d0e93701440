"""Statements as they are stored and shown. Amounts are nano-units of the currency, instants
nanoseconds since the epoch."""

from __future__ import annotations

import msgspec

from llmgw_core.statements.periods import Period


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """That the lines about one period add up to the ledger: everything that was billed for it so
    far, this statement included. `rows`: how many rounded amounts the ledger's sum consists of at
    most, `lines`: of how many rounded lines the statements' sum."""

    about: str
    period: str
    rows: int
    lines: int
    ledger_cost: int
    ledger_charge: int
    lines_cost: int
    lines_charge: int
    bound_halves: int
    """The rounding may come to so many halves of a nano-unit: one for each row, and half of the
    last place for each line."""

    @property
    def holds(self) -> bool:
        """Whether both sides differ by no more than rounding."""
        differences = (
            self.lines_cost - self.ledger_cost,
            self.lines_charge - self.ledger_charge,
        )
        return all(2 * abs(difference) <= self.bound_halves for difference in differences)


class PoolShare(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool cost in the period, and what of it nobody used. Weighted tokens are decimal
    numbers."""

    name: str
    cost: int
    idle: int
    used: str
    capacity: str | None
    hours: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement says as a whole. `cost` and `charge` are the sums of all lines."""

    currency: str
    decimals: int
    cost: int
    charge: int
    calls: int
    checks: tuple[Check, ...]
    pools: tuple[PoolShare, ...] = ()


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement without its lines. `scope` is the id of an organisation, "" for everybody;
    `cursor` the last row of the ledger that it knows of."""

    id: str
    scope: str
    period: str
    timezone: str
    start_ns: int
    end_ns: int
    state: str
    cursor: int
    summary: Summary
    digest: str
    created_ns: int
    created_by: str
    closed_ns: int | None
    closed_by: str | None

    @property
    def span(self) -> Period:
        """Its period."""
        return Period(self.period, self.timezone, self.start_ns, self.end_ns)

    @property
    def closed(self) -> bool:
        """Whether it never changes any more."""
        return self.state == "closed"
