"""Amounts of a report by their currency: that of the price sheets that they are from. What has no
price sheet is in the installation's. Only once `accounting.currency` was changed are there several;
until then nothing is kept apart, and nothing more is read.
"""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.reports.privacy import usage
from llmgw_core.store.usage_report import UsageRow

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from llmgw_core.config.schema_reports import ReportsConfig
    from llmgw_core.reports.privacy import Filters
    from llmgw_core.store.ledger import Ledger
    from llmgw_core.store.usage_report import Dimension

_KEYS: Final = 2
"""Fields of a `UsageRow` before its figures."""


async def usage_by_currency(
    ledger: Ledger,
    rules: ReportsConfig,
    by: Sequence[Dimension],
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    filters: Filters | None = None,
    *,
    currency: str,
) -> list[tuple[UsageRow, str]]:
    """As `privacy.usage`, each line with the currency of its amounts; lines of several currencies
    have the same ids. `currency` is the installation's."""
    if not await ledger.has_other_currency(currency):
        rows = await usage(ledger, rules, by, since, until, filters)
        return [(row, currency) for row in rows]
    return _apart(await usage(ledger, rules, (*by, "currency"), since, until, filters), currency)


def _apart(rows: Iterable[UsageRow], currency: str) -> list[tuple[UsageRow, str]]:
    """Without the last id, which is the currency or, where there is no price sheet, ""."""
    found: dict[tuple[tuple[str, ...], str], UsageRow] = {}
    for row in rows:
        figures = list(msgspec.structs.astuple(row)[_KEYS:])
        key = row.ids[:-1], row.ids[-1] or currency
        if key in found:
            figures = list(map(add, figures, msgspec.structs.astuple(found[key])[_KEYS:]))
        found[key] = UsageRow(row.ids[:-1], row.names[:-1], *figures)
    return [(row, unit) for (_, unit), row in sorted(found.items())]
