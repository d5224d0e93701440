"""Answers in the shapes of OpenAI's usage API: pages of buckets of results.

Every bucket of a page is there, also those without results. Amounts are exact decimal numbers.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.accounting.price_sheet import CLASSES, MILLION
from llmgw_core.reports.privacy import usage
from llmgw_core.reports.question import DAY, GROUPS, HOUR, LINE_ITEM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
ROUNDING: Final = "rounding"
"""The line item that holds what single calls were rounded by."""
OTHER: Final = "other"
"""The line item of what is merged because too few users had it."""


async def page(question: Question, ledger: Ledger, rules: ReportsConfig, currency: str) -> Result:
    """The page that `question` asks for, within `rules`. Raises `StoreUnavailable`, and
    `GatewayError` for what the rules do not allow."""
    found: dict[int, list[Result]] = {}
    if not question.nothing and question.page < question.last:
        rows = await _rows(question, ledger, rules)
        if question.subject != "costs":
            results = [(at, _used(question, ids, row)) for at, ids, row in rows]
        elif _itemized(question):
            sheets = await ledger.sheets({ids[-1] for _, ids, _ in rows})
            results = _items(question, rows, sheets, currency)
        else:
            results = [(at, _spent(question, ids, row, currency)) for at, ids, row in rows]
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


async def _rows(
    question: Question, ledger: Ledger, rules: ReportsConfig
) -> list[tuple[int, tuple[str, ...], UsageRow]]:
    """The sums of the page: where their bucket begins, the ids in the order of the groups, and of
    line items what they are made of."""
    form = _FORMS[question.width.seconds]
    period: Dimension = "day" if question.width.seconds == DAY else "hour"
    dimensions = [GROUPS[name] for name in question.groups if name in GROUPS]
    more = _ITEM if _itemized(question) else ()
    filters = dict(question.filters)
    endpoint = _ENDPOINTS.get(question.subject)
    if endpoint is not None:
        filters["endpoint"] = (endpoint,)
    within = _moment(question.page), _moment(question.end)
    rows = await usage(ledger, rules, (period, *dimensions, *more), *within, filters)
    return [
        (
            int(dt.datetime.strptime(row.ids[0], form).replace(tzinfo=dt.UTC).timestamp()),
            row.ids[1:],
            row,
        )
        for row in rows
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


def _spent(question: Question, ids: Sequence[str], row: UsageRow, currency: str) -> Result:
    amount = row.charge if question.side == "charge" else row.cost
    return _cost(question, ids, currency, _decimal(amount, _NANO_PLACES))


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
    question: Question,
    rows: Iterable[tuple[int, tuple[str, ...], UsageRow]],
    sheets: Mapping[str, PriceSheet],
    currency: str,
) -> list[tuple[int, Result]]:
    """Line items by bucket and group. What the single calls were rounded by is an item of its own,
    so that all of them together are what the books say."""
    sums: dict[tuple[int, tuple[str, ...], str, str], tuple[int, int]] = {}

    def add(
        at: int, ids: tuple[str, ...], name: str, unit: str, numerator: int, quantity: int
    ) -> None:
        key = (at, ids, name, unit)
        old = sums.get(key, (0, 0))
        sums[key] = (old[0] + numerator, old[1] + quantity)

    width = len(_ITEM)
    for at, all_ids, row in rows:
        ids, (served, asked, price) = all_ids[:-width], all_ids[-width:]
        model = served or asked
        rest = (row.charge if question.side == "charge" else row.cost) * MILLION
        sheet = sheets.get(price)
        for each in () if sheet is None else sheet.amounts_by_class(_quantities(row)):
            numerator = each.charge if question.side == "charge" else each.cost
            rest -= numerator
            unit = _UNIT.get(each.name, "tokens")
            add(at, ids, f"{model}, {_COLUMN[each.name]}", unit, numerator, each.quantity)
        if rest:
            unpriced = f"{model}, not itemized" if model else OTHER
            add(at, ids, ROUNDING if sheet is not None else unpriced, "", rest, 0)
    wanted = frozenset(question.line_items)
    chosen = {
        key: both
        for key, both in sorted(sums.items())
        if any(both) and (not wanted or key[2] in wanted)
    }
    if LINE_ITEM not in question.groups:
        return _summed(question, chosen, currency)
    return [
        (
            at,
            _cost(
                question,
                ids,
                currency,
                _decimal(numerator, _EXACT_PLACES),
                (name, quantity, unit or None),
            ),
        )
        for (at, ids, name, unit), (numerator, quantity) in chosen.items()
    ]


def _summed(
    question: Question,
    items: Mapping[tuple[int, tuple[str, ...], str, str], tuple[int, int]],
    currency: str,
) -> list[tuple[int, Result]]:
    """The chosen items as one result of each group."""
    sums: dict[tuple[int, tuple[str, ...]], int] = {}
    for (at, ids, _, _), (numerator, _) in items.items():
        sums[at, ids] = sums.get((at, ids), 0) + numerator
    return [
        (at, _cost(question, ids, currency, _decimal(numerator, _EXACT_PLACES)))
        for (at, ids), numerator in sums.items()
    ]


def _quantities(row: UsageRow) -> dict[str, int]:
    return {column: getattr(row, column) for column in _COLUMN.values()}


def _decimal(number: int, places: int) -> msgspec.Raw:
    """`number` with its last `places` digits behind the point, as JSON has it: exact."""
    digits = str(abs(number)).zfill(places + 1)
    behind = digits[-places:].rstrip("0")
    sign, point = "-" if number < 0 else "", "." if behind else ""
    return msgspec.Raw(f"{sign}{digits[:-places]}{point}{behind}".encode())
