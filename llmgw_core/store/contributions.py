"""What records add to the sums: whose tokens and amounts, in which hour. No I/O here.

A call counts once, with what it used itself, under the deployment and price sheet of its last
attempt. A failed attempt that is paid (one with a `usage` of its own) adds its tokens and amounts
under its own deployment and sheet, and no call. So the sums of any period are the sums of its
rows, and all tokens of one group have one price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.domain.usage import Usage, UsageDetails, UsageRecord

HOUR_NS: Final = 3_600 * 10**9

Key = tuple[Any, ...]
"""The hour since the epoch, and the values of the columns of a group."""
Contributions = dict[Key, list[int]]

_CALLS, _ESTIMATED, _INPUT, _OUTPUT, _CACHED, _REASONING, _DETAILS = range(7)
_COST, _CHARGE = -2, -1
_NOTHING: Final = (0,) * 16


def contributions(
    records: Iterable[UsageRecord], groups: Contributions | None = None
) -> Contributions:
    """The sums that `records` add, in the order of `ledger_tables.SUMS`; to those in `groups`, if
    they are given."""
    groups = {} if groups is None else groups
    for record in records:
        usage, attempts = record.usage, record.attempts
        key = (
            record.started_ns // HOUR_NS,
            record.organization_id,
            record.team_id or "",
            record.user_id or "",
            record.key_id or "",
            record.cost_center,
            record.endpoint,
            record.model,
            record.served_model,
            record.deployment,
            # One that is paid as a failed one has nothing in common with the call.
            attempts[-1].price if attempts and attempts[-1].usage is None else "",
        )
        group = groups.get(key)
        if group is None:
            group = groups[key] = [*_NOTHING]
        count = -1 if record.entry == "reversal" else 1
        group[_CALLS] += count
        if usage.source == "estimated":
            group[_ESTIMATED] += count
        group[_INPUT] += usage.input_tokens
        group[_OUTPUT] += usage.output_tokens
        if usage.cached_input_tokens:
            group[_CACHED] += usage.cached_input_tokens
        if usage.reasoning_tokens:
            group[_REASONING] += usage.reasoning_tokens
        if usage.details is not None:
            _add_details(group, usage.details, 1)
        group[_COST] += record.cost
        group[_CHARGE] += record.charge
        for attempt in attempts:
            if attempt.usage is not None:
                other = (*key[:8], "", attempt.deployment, attempt.price)
                paid = groups.setdefault(other, [*_NOTHING])
                for sums, sign in ((paid, 1), (group, -1)):
                    _add_tokens(sums, attempt.usage, sign)
                    sums[_COST] += sign * attempt.cost
                    sums[_CHARGE] += sign * attempt.charge
    return groups


def _add_tokens(group: list[int], usage: Usage, sign: int) -> None:
    group[_INPUT] += sign * usage.input_tokens
    group[_OUTPUT] += sign * usage.output_tokens
    group[_CACHED] += sign * usage.cached_input_tokens
    group[_REASONING] += sign * usage.reasoning_tokens
    if usage.details is not None:
        _add_details(group, usage.details, sign)


def _add_details(group: list[int], details: UsageDetails, sign: int) -> None:
    for index, count in enumerate(msgspec.structs.astuple(details), _DETAILS):
        group[index] += sign * count
