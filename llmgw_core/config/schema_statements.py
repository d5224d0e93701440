"""The section `statements`: how months are billed, and what costs the same whatever is used."""

from __future__ import annotations

import datetime  # noqa: ICN001, TC003 -- msgspec reads the annotations at run time
from decimal import Decimal  # noqa: TC003 -- as above

import msgspec


class PoolConfig(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"valid_from": "from", "valid_until": "until"},
):
    """Something that costs `monthly` (whole units of the installation's currency), however much it
    is used: GPU servers, provisioned throughput. In each statement this is shared out among the
    cost centres by their tokens on `deployments` (MODEL/NAME) and `models`, each class of tokens
    times its weight (a class without one: that of which it is a part; 1 for input and output).

    `capacity`: weighted tokens that it could do in an hour; what is not used of it is idle, and
    nobody's. Without one, everything is shared out. `from` and `until`: the first day, and the day
    after the last one, in the time zone of the statement; a month that it does not cover is paid
    by its share of hours."""

    monthly: Decimal
    deployments: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    weights: dict[str, Decimal] = {}
    capacity: Decimal | None = None
    valid_from: datetime.date | None = None
    valid_until: datetime.date | None = None


class StatementsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`timezone`: whose calendar months are billed unless the command says otherwise. `decimals`:
    places after the point that each line is rounded to. `grace`: seconds after the end of a month
    before it can be closed, for calls that still run. `pools`: what is paid by the month, by
    name."""

    timezone: str = "UTC"
    decimals: int = 6
    grace: float = 3600.0
    pools: dict[str, PoolConfig] = {}
