"""Reports that show no single person, unless the configuration allows it.

What is refused or merged follows from `reports` in the configuration. Without `users` nobody sees
sums of a user, nor of a key that belongs to one: such keys are one line together. With
`minimum_group`, no sum stems from fewer users than that, totals included: smaller ones are merged
with the next larger ones of the same period until together they stem from enough, so what is merged
cannot be told from the total; where there are not enough in a period, nothing of it is shown. Sums
of calls without a user say nothing of a person. Whoever may ask many questions with different
filters can still compare the answers: this keeps reports decent, it is no anonymisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.domain.errors import permission_denied
from llmgw_core.store.usage_report import UsageRow

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from llmgw_core.config.schema_reports import ReportsConfig
    from llmgw_core.store.ledger import Ledger
    from llmgw_core.store.usage_report import Dimension

    Filters = Mapping[Dimension, str | Collection[str]]
    Ids = tuple[str, ...]

_APART: Final = frozenset({"month", "day", "hour", "currency"})
"""What is never merged. Their ids are their names."""
_FIGURES: Final = UsageRow.__struct_fields__[2:]


class _Sums:
    """What belongs to one group, and the users that it stems from."""

    __slots__ = ("figures", "names", "users")

    def __init__(self, names: Ids) -> None:
        self.names = names
        self.figures = [0] * len(_FIGURES)
        self.users: set[str] = set()

    def add(self, figures: Iterable[int], users: Iterable[str]) -> None:
        self.figures = [old + new for old, new in zip(self.figures, figures, strict=True)]
        self.users.update(users)


async def usage(
    ledger: Ledger,
    rules: ReportsConfig,
    by: Sequence[Dimension],
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    filters: Filters | None = None,
) -> list[UsageRow]:
    """As `Ledger.usage`, within `rules`. Raises `GatewayError` 403 for what they do not allow."""
    filters = filters or {}
    personal = "key" in by or "key" in filters
    if rules.users or (rules.minimum_group == 1 and not personal and not _of_users(by, filters)):
        return await ledger.usage(by, since, until, filters)
    if _of_users(by, filters):
        raise permission_denied(
            "Reports by user are switched off; `reports.users` in the configuration allows them."
        )
    rows = await ledger.usage((*by, "user"), since, until, filters)
    if "key" in filters:
        rows = [row for row in rows if not row.ids[-1]]
    groups = _merged(by, rows, personal=personal)
    if rules.minimum_group > 1:
        groups = _large_enough(by, groups, rules.minimum_group)
    found = [UsageRow(ids, sums.names, *sums.figures) for ids, sums in sorted(groups.items())]
    return found or ([] if by else [UsageRow((), (), *[0] * len(_FIGURES))])


def _of_users(by: Sequence[Dimension], filters: Filters) -> bool:
    return "user" in by or "user" in filters


def _merged(
    by: Sequence[Dimension], rows: Iterable[UsageRow], *, personal: bool
) -> dict[Ids, _Sums]:
    """The groups of `by`; with `personal`, the keys of users are one."""
    groups: dict[Ids, _Sums] = {}
    for row in rows:
        ids, names, user = row.ids[:-1], row.names[:-1], row.ids[-1]
        if personal and user:
            ids, names = _without(by, ids, {"key"}), _without(by, names, {"key"})
        sums = groups.get(ids)
        if sums is None:
            sums = groups[ids] = _Sums(names)
        sums.add(msgspec.structs.astuple(row)[2:], (user,) if user else ())
    return groups


def _large_enough(
    by: Sequence[Dimension], groups: Mapping[Ids, _Sums], minimum: int
) -> dict[Ids, _Sums]:
    """`groups`, in which none stems from fewer than `minimum` users."""
    periods: dict[Ids, list[Ids]] = {}
    for ids in groups:
        periods.setdefault(_without(by, ids, frozenset(by) - _APART), []).append(ids)
    found: dict[Ids, _Sums] = {}
    for rest, members in periods.items():
        together = _Sums(rest)
        merged: set[Ids] = set()
        for ids in sorted(members, key=lambda ids: (len(groups[ids].users), ids)):
            sums = groups[ids]
            if not sums.users:
                continue
            if len(sums.users) >= minimum and (not merged or len(together.users) >= minimum):
                break
            merged.add(ids)
            together.add(sums.figures, sums.users)
        found.update((ids, groups[ids]) for ids in members if ids not in merged)
        if len(together.users) >= minimum:
            if rest in found:  # what has none of the ids, and is no remainder
                together.add(found[rest].figures, ())
            found[rest] = together
    return found


def _without(by: Sequence[Dimension], values: Ids, names: Collection[str]) -> Ids:
    """`values` with nothing in the places of `names`."""
    return tuple("" if name in names else value for name, value in zip(by, values, strict=True))
