"""What is paid by the month is shared out by use: weighted tokens, and the largest remainders, so
that the shares are the whole, to the last place. Pure.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from llmgw_core.accounting.price_sheet import CLASSES, PARTS
from llmgw_core.statements.lines import Line, last_place
from llmgw_core.statements.periods import HOUR_NS, midnight_ns
from llmgw_core.statements.records import PoolShare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmgw_core.config.schema_statements import PoolConfig
    from llmgw_core.statements.composing import Composer
    from llmgw_core.statements.periods import Period
    from llmgw_core.store.statement_sums import PeriodSums

_NANO: Final = 10**9
WEIGHTED_TOKENS: Final = "weighted token"


class PoolUse(NamedTuple):
    """A pool in a period: from when until when it is paid, and what was served in that time."""

    name: str
    config: PoolConfig
    since_ns: int
    until_ns: int
    groups: Iterable[PeriodSums] = ()


def pool_span(config: PoolConfig, period: Period) -> tuple[int, int]:
    """From when until when a pool is paid in a period; nothing if the end is not behind the
    beginning."""
    since, until = period.start_ns, period.end_ns
    if config.valid_from is not None:
        since = max(since, midnight_ns(config.valid_from, period.timezone))
    if config.valid_until is not None:
        until = min(until, midnight_ns(config.valid_until, period.timezone))
    return since, until


def pool_lines(
    use: PoolUse, period: Period, about: str, composer: Composer
) -> tuple[PoolShare, list[Line]]:
    """What the pool cost in the period, and the lines of those who pay it."""
    step = last_place(composer.decimals)
    covered = Fraction(use.until_ns - use.since_ns, period.end_ns - period.start_ns)
    # Rounded once, to what lines show; everything after that is counted in whole steps.
    steps = round(Fraction(use.config.monthly) * _NANO * covered / step)
    weights = weighted(use)
    used = sum(weights.values(), Fraction(0))
    whole = used
    capacity = None
    if use.config.capacity is not None:
        capacity = Fraction(use.config.capacity) * Fraction(use.until_ns - use.since_ns, HOUR_NS)
        whole = max(used, capacity)
    parts = [*weights.items(), (None, whole - used)] if whole else [(None, Fraction(1))]
    shares = largest_remainder(steps, [weight for _, weight in parts])
    lines = [
        _line(
            use.name,
            center,
            weight if whole else Fraction(0),
            share * step,
            period,
            about,
            composer,
        )
        for (center, weight), share in zip(parts, shares, strict=True)
        if share or (center is not None and weight)
    ]
    idle = sum(line.cost for line in lines if line.kind == "idle")
    share = PoolShare(
        name=use.name,
        cost=steps * step,
        idle=idle,
        used=decimal(used),
        capacity=None if capacity is None else decimal(capacity),
        hours=decimal(Fraction(use.until_ns - use.since_ns, HOUR_NS)),
    )
    return share, lines


def weighted(use: PoolUse) -> dict[str, Fraction]:
    """Weighted tokens by cost centre, in the order of their ids, of what the pool has served."""
    found: dict[str, Fraction] = {}
    factors = _factors(use.config.weights)
    config = use.config
    for group in sorted(use.groups, key=lambda group: group.cost_center):
        if group.deployment in config.deployments or group.model in config.models:
            tokens = sum(
                (factors[name] * quantity for name, quantity in _quantities(group.sums)),
                Fraction(0),
            )
            found[group.cost_center] = found.get(group.cost_center, Fraction(0)) + tokens
    # What was taken back may be more than what was served: nobody is paid for that.
    return {center: tokens for center, tokens in found.items() if tokens > 0}


def largest_remainder(whole: int, weights: list[Fraction]) -> list[int]:
    """`whole` in parts as the weights are, which add up to it. Of equal remainders the first one
    goes before."""
    total = sum(weights, Fraction(0))
    exact = [whole * weight / total for weight in weights]
    parts = [share.numerator // share.denominator for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: (parts[index] - exact[index], index))
    for index in by_remainder[: whole - sum(parts)]:
        parts[index] += 1
    return parts


def decimal(value: Fraction) -> str:
    """A number with as many decimals as it needs, at most six."""
    with localcontext() as context:
        context.prec = 60
        text = f"{Decimal(value.numerator) / Decimal(value.denominator):.6f}"
    return text.rstrip("0").rstrip(".")


def _factors(weights: Mapping[str, Decimal]) -> dict[str, Fraction]:
    given = {name: Fraction(weight) for name, weight in weights.items()}
    factors: dict[str, Fraction] = {}
    for each in CLASSES:
        default = factors[each.parent] if each.parent else Fraction(each.name in PARTS)
        factors[each.name] = given.get(each.name, default)
    return factors


def _quantities(sums: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    """Tokens of every class alone, without those of its parts."""
    for each in CLASSES:
        yield (
            each.name,
            sums.get(each.column, 0)
            - sum(sums.get(part.column, 0) for part in PARTS.get(each.name, ())),
        )


def _line(
    pool: str,
    center: str | None,
    tokens: Fraction,
    amount: int,
    period: Period,
    about: str,
    composer: Composer,
) -> Line:
    named = composer.named(center or "")
    return Line(
        kind="idle" if center is None else "pool",
        about=about,
        period=period.name,
        cost_center=center or "",
        code=named.code,
        name=named.name,
        owner=named.owner,
        model=pool,
        token_class="weighted",  # noqa: S106 -- no password
        unit=WEIGHTED_TOKENS,
        quantity=round(tokens),
        price="",
        cost_rate=None,
        charge_rate=None,
        cost=amount,
        charge=0 if center is None else amount,
        decimals=composer.decimals,
        note="not used, nobody's" if center is None else "share of what is paid by the month",
    )
