"""Answers in the shapes of OpenAI's usage API: pages of buckets of results.

Every bucket of a page is there, also those without results. Amounts are exact decimal numbers.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from llmgw_core.accounting.price_sheet import CLASSES, MILLION
from llmgw_core.domain.errors import invalid_request
from llmgw_core.reports.currencies import usage_by_currency
from llmgw_core.reports.privacy import usage
from llmgw_core.reports.question import DAY, GROUPS, HOUR, LINE_ITEM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llmgw_core.accounting.price_sheet import PriceSheet
    from llmgw_core.config.schema_reports import ReportsConfig
    from llmgw_core.reports.question import Question
    from llmgw_core.store.ledger import Ledger
    from llmgw_core.store.usage_report import Dimension, UsageRow

    Result = dict[str, Any]

_NANO_PLACES: Final = 9
_EXACT_PLACES: Final = 15
"""Decimal places of an amount before it is rounded: a millionth of a nano-unit is the last."""
_ENDPOINTS: Final = {"completions": "chat.completions", "embeddings": "embeddings"}
_FORMS: Final = {DAY: "%Y-%m-%d", HOUR: "%Y-%m-%dT%H"}
_COLUMN: Final = {each.name: each.column for each in CLASSES}
_UNIT: Final = {"image": "images", "call": ""}
"""Others are tokens. OpenAI's list of units has none for calls."""
_ITEM: Final[tuple[Dimension, ...]] = ("served_model", "model", "price")
MOST_RESULTS: Final = 50_000
"""On one page: some 15 MB."""
_BUCKETS: Final = 10
"""So many are asked for at once."""
ROUNDING: Final = "rounding"
"""The line item that holds what single calls were rounded by."""
OTHER: Final = "other"
"""The line item of what is merged because too few users had it."""


class _Key(NamedTuple):
    """One line item of a bucket and group."""

    at: int
    ids: tuple[str, ...]
    currency: str
    name: str
    unit: str


class _Sum(NamedTuple):
    """The sums of one result: where its bucket begins, the ids in the order of the groups, of line
    items what they are made of, and the currency of amounts."""

    at: int
    ids: tuple[str, ...]
    item: tuple[str, ...]
    currency: str
    row: UsageRow


async def page(question: Question, ledger: Ledger, rules: ReportsConfig, currency: str) -> Result:
    """The page that `question` asks for, within `rules`; `currency` is the installation's. Raises
    `StoreUnavailable`, and `GatewayError` for what the rules do not allow."""
    found: dict[int, list[Result]] = {}
    given = 0
    for part in _parts(question):
        results = await _results(part, ledger, rules, currency)
        given += len(results)
        if given > MOST_RESULTS:
            raise invalid_request(
                f"A page has at most {MOST_RESULTS:,} results, and this one would have more: ask"
                " for fewer buckets (`limit`), by less, or with filters.",
                param="limit",
            )
        for at, result in results:
            found.setdefault(at, []).append(result)
    seconds = question.width.seconds
    return {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": at,
                "end_time": at + seconds,
                "results": found.get(at, []),
            }
            for at in range(question.page, question.end, seconds)
        ],
        "has_more": question.next_page is not None,
        "next_page": question.next_page,
    }


def _parts(question: Question) -> Iterator[Question]:
    """The question about some buckets after the other, so that what is too large is found out
    before all of it is in memory."""
    buckets = -(-(question.end - question.page) // question.width.seconds)
    for first in range(0, 0 if question.nothing else buckets, _BUCKETS):
        start = question.page + first * question.width.seconds
        limit = min(_BUCKETS, buckets - first)
        yield msgspec.structs.replace(question, page=start, limit=limit)


async def _results(
    question: Question, ledger: Ledger, rules: ReportsConfig, currency: str
) -> list[tuple[int, Result]]:
    """The results, each with the beginning of its bucket."""
    sums = await _sums(question, ledger, rules, currency)
    if question.subject != "costs":
        return [(each.at, _used(question, each.ids, each.row)) for each in sums]
    if not _itemized(question):
        return [(each.at, _spent(question, each)) for each in sums]
    sheets = await ledger.sheets({each.item[-1] for each in sums})
    return _items(question, sums, sheets)


async def _sums(
    question: Question, ledger: Ledger, rules: ReportsConfig, currency: str
) -> list[_Sum]:
    """The sums of the page."""
    form = _FORMS[question.width.seconds]
    period: Dimension = "day" if question.width.seconds == DAY else "hour"
    dimensions = [GROUPS[name] for name in question.groups if name in GROUPS]
    by = (period, *dimensions, *(_ITEM if _itemized(question) else ()))
    filters = dict(question.filters)
    endpoint = _ENDPOINTS.get(question.subject)
    if endpoint is not None:
        filters["endpoint"] = (endpoint,)
    within = _moment(question.page), _moment(question.end)
    if question.subject == "costs":
        rows = await usage_by_currency(ledger, rules, by, *within, filters, currency=currency)
    else:
        rows = [(row, currency) for row in await usage(ledger, rules, by, *within, filters)]
    width = 1 + len(dimensions)
    return [
        _Sum(
            int(dt.datetime.strptime(row.ids[0], form).replace(tzinfo=dt.UTC).timestamp()),
            row.ids[1:width],
            row.ids[width:],
            unit,
            row,
        )
        for row, unit in rows
    ]


def _moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _itemized(question: Question) -> bool:
    return LINE_ITEM in question.groups or bool(question.line_items)


def _grouped(question: Question, ids: Sequence[str]) -> Result:
    """What the result belongs to; null for what was not asked for, and for nothing (a call without
    a team)."""
    values = dict(zip((name for name in question.groups if name in GROUPS), ids, strict=False))
    return {name: values.get(name) or None for name in GROUPS}


def _used(question: Question, ids: Sequence[str], row: UsageRow) -> Result:
    result: Result = {
        "object": f"organization.usage.{question.subject}.result",
        "input_tokens": row.input_tokens,
        "num_model_requests": row.calls,
        **_grouped(question, ids),
    }
    if question.subject == "embeddings":
        return result
    written, cached = row.cache_write_tokens, row.cached_input_tokens
    uncached = row.input_tokens - cached - written
    outputs = row.audio_output_tokens + row.image_output_tokens
    return {
        **result,
        "input_cached_tokens": cached,
        "input_cache_write_tokens": written,
        "input_uncached_tokens": uncached,
        "input_text_tokens": uncached - row.audio_input_tokens - row.image_input_tokens,
        "input_audio_tokens": row.audio_input_tokens,
        "input_image_tokens": row.image_input_tokens,
        "output_tokens": row.output_tokens,
        "output_text_tokens": row.output_tokens - outputs,
        "output_audio_tokens": row.audio_output_tokens,
        "output_image_tokens": row.image_output_tokens,
        "batch": False if "batch" in question.groups else None,
        "service_tier": None,
        "api_source": "unlabeled" if "api_source" in question.groups else None,
    }


def _spent(question: Question, each: _Sum) -> Result:
    amount = each.row.charge if question.side == "charge" else each.row.cost
    return _cost(question, each.ids, each.currency, _decimal(amount, _NANO_PLACES))


def _cost(
    question: Question,
    ids: Sequence[str],
    currency: str,
    value: msgspec.Raw,
    item: tuple[str, int, str | None] | None = None,
) -> Result:
    """`item`: name, quantity and unit of a line item."""
    grouped = _grouped(question, ids)
    del grouped["model"]
    name, quantity, unit = item or (None, None, None)
    return {
        "object": "organization.costs.result",
        "amount": {"value": value, "currency": currency.lower()},
        "line_item": name,
        "quantity": quantity,
        "quantity_unit": unit,
        "api_source": "unlabeled" if "api_source" in question.groups else None,
        **grouped,
    }


def _items(
    question: Question, found: Iterable[_Sum], sheets: Mapping[str, PriceSheet]
) -> list[tuple[int, Result]]:
    """Line items by bucket and group. What the single calls were rounded by is an item of its own,
    so that all of them together are what the books say."""
    sums: dict[_Key, tuple[int, int]] = {}
    for each in found:
        model = each.item[0] or each.item[1]
        sheet = sheets.get(each.item[-1])
        row, side = each.row, question.side
        rest = (row.charge if side == "charge" else row.cost) * MILLION
        parts = []
        for part in () if sheet is None else sheet.amounts_by_class(_quantities(row)):
            numerator = part.charge if side == "charge" else part.cost
            rest -= numerator
            name = f"{model}, {_COLUMN[part.name]}"
            parts.append((name, _UNIT.get(part.name, "tokens"), numerator, part.quantity))
        if rest:
            unpriced = f"{model}, not itemized" if model else OTHER
            parts.append((ROUNDING if sheet is not None else unpriced, "", rest, 0))
        for name, unit, numerator, quantity in parts:
            key = _Key(each.at, each.ids, each.currency, name, unit)
            old = sums.get(key, (0, 0))
            sums[key] = (old[0] + numerator, old[1] + quantity)
    wanted = frozenset(question.line_items)
    chosen = {
        key: both
        for key, both in sorted(sums.items())
        if any(both) and (not wanted or key.name in wanted)
    }
    if LINE_ITEM not in question.groups:
        return _summed(question, chosen)
    return [
        (
            key.at,
            _cost(
                question,
                key.ids,
                key.currency,
                _decimal(numerator, _EXACT_PLACES),
                (key.name, quantity, key.unit or None),
            ),
        )
        for key, (numerator, quantity) in chosen.items()
    ]


def _summed(question: Question, items: Mapping[_Key, tuple[int, int]]) -> list[tuple[int, Result]]:
    """The chosen items as one result of each group."""
    sums: dict[tuple[int, tuple[str, ...], str], int] = {}
    for key, (numerator, _) in items.items():
        group = key.at, key.ids, key.currency
        sums[group] = sums.get(group, 0) + numerator
    return [
        (at, _cost(question, ids, currency, _decimal(numerator, _EXACT_PLACES)))
        for (at, ids, currency), numerator in sums.items()
    ]


def _quantities(row: UsageRow) -> dict[str, int]:
    return {column: getattr(row, column) for column in _COLUMN.values()}


def _decimal(number: int, places: int) -> msgspec.Raw:
    """`number` with its last `places` digits behind the point, as JSON has it: exact."""
    digits = str(abs(number)).zfill(places + 1)
    behind = digits[-places:].rstrip("0")
    sign, point = "-" if number < 0 else "", "." if behind else ""
    return msgspec.Raw(f"{sign}{digits[:-places]}{point}{behind}".encode())
