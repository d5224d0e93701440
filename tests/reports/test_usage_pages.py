"""The buckets of the usage API are the sums of the rows, however they are asked for."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw_core.config.schema_reports import ReportsConfig
from llmgw_core.domain.usage import Usage, UsageDetails
from llmgw_core.reports.pages import page
from llmgw_core.reports.question import read_question
from llmgw_core.testing.bookkeeping import book, priced, rates, repriced, sheet
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.reports.question import Subject

    from .conftest import Books

START = int(dt.datetime(2026, 1, 30, tzinfo=dt.UTC).timestamp())
HOUR = 3_600
SHEETS = (
    sheet(rates(333, 1_777, cached_input=1), rates(999_983, 7, call=13)),
    sheet(rates(1, 2, image=5), rates(1_000_003, 77, reasoning=501)),
)
FIELDS = {
    "project_id": "team_id",
    "user_id": "user_id",
    "api_key_id": "key_id",
    "model": "model",
    "organization_id": "organization_id",
}
EVERYTHING = ReportsConfig(users=True)

counts = st.integers(0, 10**5)
usages = st.builds(
    lambda i, o, c, r, w, images: Usage(
        i + c + w, o + r, c, r, "provider", "", UsageDetails(w, images=images) if w else None
    ),
    *[counts] * 5,
    st.integers(0, 3),
)
maybe = st.sampled_from([None, "a", "b"])
calls = st.lists(
    st.tuples(
        st.integers(0, 80), usages, maybe, maybe, maybe, st.sampled_from("mn"), st.integers(0, 1)
    ),
    max_size=9,
)


def made(example: int, calls: Iterable[tuple[Any, ...]], endpoint: str) -> list[UsageRecord]:
    return [
        priced(
            example * 100 + number,
            SHEETS[price],
            usage,
            started_ns=(START + hour * HOUR) * 10**9 + number,
            organization_id=f"org-{example}",
            team_id=team,
            user_id=user,
            key_id=key,
            model=model,
            deployment=f"{model}/x",
            endpoint=endpoint,
        )
        for number, (hour, usage, team, user, key, model, price) in enumerate(calls)
    ]


def walk(
    books: Books, subject: Subject, query: list[tuple[str, str]], rules: ReportsConfig = EVERYTHING
) -> list[dict[str, Any]]:
    """The buckets of all pages, as a client reads them."""
    buckets: list[dict[str, Any]] = []
    cursor: list[tuple[str, str]] = []
    for _ in range(200):
        question = read_question(subject, [*query, *cursor], START)
        found = books.run(page(question, books.ledger, rules, "EUR"))
        text = msgspec.json.encode(found)
        read = json.loads(text, parse_float=Decimal)
        assert len(read["data"]) <= question.limit
        buckets += read["data"]
        if not read["has_more"]:
            assert read["next_page"] is None
            return buckets
        cursor = [("page", read["next_page"])]
    raise AssertionError("the pages do not end")


def summed(
    records: Iterable[UsageRecord], groups: list[str], seconds: int
) -> dict[tuple[Any, ...], list[int]]:
    sums: dict[tuple[Any, ...], list[int]] = {}
    for each in records:
        begun = each.started_ns // 10**9
        own = tuple(getattr(each, FIELDS[name]) for name in groups)
        key = (begun - begun % seconds, *own)
        used = each.usage
        figures = (
            -1 if each.entry == "reversal" else 1,
            used.input_tokens,
            used.output_tokens,
            used.cached_input_tokens,
            each.charge,
            each.cost,
        )
        sums[key] = [a + b for a, b in zip(sums.get(key, [0] * 6), figures, strict=True)]
    return {key: figures for key, figures in sums.items() if any(figures)}


@settings(max_examples=30)
@given(
    calls=calls,
    groups=st.lists(st.sampled_from(list(FIELDS)), unique=True),
    hours=st.booleans(),
    limit=st.integers(2, 31),
    endpoint=st.sampled_from(["chat.completions", "embeddings"]),
)
def test_pages_of_usage_are_the_sums_of_rows(
    books: Books,
    calls: list[tuple[Any, ...]],
    groups: list[str],
    limit: int,
    endpoint: str,
    *,
    hours: bool,
) -> None:
    example = books.example()
    records = made(example, calls, endpoint)
    books.run(book(books.store, books.ledger, records, *SHEETS))
    seconds = HOUR if hours else 24 * HOUR
    chat = endpoint == "chat.completions"
    query = [
        ("start_time", str(START)),
        ("end_time", str(START + 96 * HOUR)),
        ("bucket_width", "1h" if hours else "1d"),
        ("limit", str(limit * 5 if hours else limit)),
        ("organization_ids", f"org-{example}"),
        *(("group_by[]", name) for name in groups),
    ]
    buckets = walk(books, "completions" if chat else "embeddings", query)
    starts = [bucket["start_time"] for bucket in buckets]
    assert starts == list(range(START, START + 96 * HOUR, seconds))
    wanted = summed(records, groups, seconds)
    found = {
        (bucket["start_time"], *(result[name] for name in groups)): result
        for bucket in buckets
        for result in bucket["results"]
    }
    assert sum(len(bucket["results"]) for bucket in buckets) == len(found)
    assert found.keys() == wanted.keys()
    for key, result in found.items():
        number, inputs, outputs, cached, _, _ = wanted[key]
        assert (result["num_model_requests"], result["input_tokens"]) == (number, inputs)
        if chat:
            assert (result["output_tokens"], result["input_cached_tokens"]) == (outputs, cached)
            parts = ("cached", "cache_write", "uncached")
            assert sum(result[f"input_{part}_tokens"] for part in parts) == inputs
    other: Subject = "embeddings" if chat else "completions"
    empty = walk(books, other, query)
    assert not any(bucket["results"] for bucket in empty)


@settings(max_examples=30)
@given(
    calls=calls,
    groups=st.lists(st.sampled_from([name for name in FIELDS if name != "model"]), unique=True),
    limit=st.integers(1, 180),
    side=st.sampled_from(["charge", "cost"]),
    changed=st.integers(0, 3),
)
def test_costs_and_their_line_items_are_what_the_ledger_says_to_the_nano_unit(
    books: Books,
    calls: list[tuple[Any, ...]],
    groups: list[str],
    limit: int,
    side: str,
    changed: int,
) -> None:
    example = books.example()
    records = [
        each
        for each in made(example, calls, "chat.completions")
        if each.usage.details is None  # of which the maker of corrections knows nothing
    ]
    for each in records[:changed]:
        records += repriced(each, SHEETS[1])
    books.run(book(books.store, books.ledger, records, *SHEETS))
    query = [
        ("start_time", str(START)),
        ("end_time", str(START + 96 * HOUR)),
        ("limit", str(limit)),
        ("side", side),
        ("organization_ids", f"org-{example}"),
        *(("group_by", name) for name in groups),
    ]
    place = 4 if side == "charge" else 5
    wanted = {
        key: Decimal(figures[place]).scaleb(-9)
        for key, figures in summed(records, groups, 24 * HOUR).items()
    }

    def sums(buckets: list[dict[str, Any]]) -> dict[tuple[Any, ...], Decimal]:
        found: dict[tuple[Any, ...], Decimal] = {}
        for bucket in buckets:
            for result in bucket["results"]:
                assert result["amount"]["currency"] == "eur"
                key = (bucket["start_time"], *(result[name] for name in groups))
                value = Decimal(result["amount"]["value"])
                found[key] = found.get(key, Decimal(0)) + value
        return found

    assert sums(walk(books, "costs", query)) == wanted
    itemized = walk(books, "costs", [*query, ("group_by", "line_item")])
    items = [result for bucket in itemized for result in bucket["results"]]
    nonzero = {key: value for key, value in wanted.items() if value}
    assert {key: value for key, value in sums(itemized).items() if value} == nonzero
    for result in items:
        if result["line_item"] == "rounding":
            # Each row was rounded by half a nano-unit at most.
            assert abs(Decimal(result["amount"]["value"])) <= Decimal(len(records)).scaleb(-9) / 2
    names = {result["line_item"] for result in items}
    again: dict[tuple[Any, ...], Decimal] = {}
    for name in names:
        for key, value in sums(walk(books, "costs", [*query, ("line_items", name)])).items():
            again[key] = again.get(key, Decimal(0)) + value
    assert {key: value for key, value in again.items() if value} == nonzero


def test_what_too_few_had_is_one_line_item_and_what_has_no_price_is_not_itemized(
    books: Books,
) -> None:
    example = books.example()
    usage = Usage(10, 5)
    calls = [(1, usage, "a", user, None, model, 0) for user, model in (("x", "m"), ("y", "n"))]
    free = usage_record(
        example * 100 + 50,
        organization_id=f"org-{example}",
        started_ns=START * 10**9,
        user_id=None,
        charge=77,
    )
    records = [*made(example, calls, "chat.completions"), free]
    books.run(book(books.store, books.ledger, records, *SHEETS))
    query = [
        ("start_time", str(START)),
        ("end_time", str(START + 1)),
        ("organization_ids", f"org-{example}"),
        ("group_by", "line_item"),
    ]
    rules = ReportsConfig(minimum_group=2)
    [bucket] = walk(books, "costs", query, rules)
    found = {each["line_item"]: Decimal(each["amount"]["value"]) for each in bucket["results"]}
    assert found == {
        "other": Decimal(sum(each.charge for each in records[:2])).scaleb(-9),
        "small, not itemized": Decimal(77).scaleb(-9),
    }
    [bucket] = walk(books, "costs", [*query[:-1], ("line_items", "other")], rules)
    assert [each["line_item"] for each in bucket["results"]] == [None]


def test_groups_in_which_all_is_alike_say_what_it_is(books: Books) -> None:
    example = books.example()
    records = made(example, [(1, Usage(1, 1), None, None, None, "m", 0)], "chat.completions")
    books.run(book(books.store, books.ledger, records, *SHEETS))
    query = [("start_time", str(START)), ("end_time", str(START + 1))]
    query += [("organization_ids", f"org-{example}"), ("group_by", "batch,api_source,service_tier")]
    [bucket] = walk(books, "completions", query)
    [result] = bucket["results"]
    assert (result["batch"], result["api_source"], result["service_tier"]) == (
        False,
        "unlabeled",
        None,
    )
    [bucket] = walk(books, "completions", [*query, ("batch", "true")])
    assert bucket["results"] == []


def test_amounts_of_several_currencies_are_never_added_up(books: Books) -> None:
    example = books.example()
    dollars = msgspec.structs.replace(SHEETS[0], currency="USD")
    usage = Usage(1000, 1000)
    euros = made(example, [(1, usage, "a", user, None, "m", 0) for user in "xy"], "embeddings")
    free = msgspec.structs.replace(euros[0], call_id=f"{example}-free", cost=0, charge=0)
    free = msgspec.structs.replace(
        free, attempts=(msgspec.structs.replace(euros[0].attempts[0], price="", cost=0, charge=0),)
    )
    abroad = [
        priced(
            example * 100 + 20 + number,
            dollars,
            usage,
            started_ns=START * 10**9,
            organization_id=f"org-{example}",
            team_id="a",
            user_id=user,
            key_id=None,
            model=f"m{number}",
            deployment=f"m{number}/x",
            currency="USD",
        )
        for number, user in enumerate("xy")
    ]
    books.run(book(books.store, books.ledger, [*euros, *abroad, free], *SHEETS, dollars))
    query = [("start_time", str(START)), ("end_time", str(START + 1))]
    query.append(("organization_ids", f"org-{example}"))
    each = Decimal(euros[0].charge).scaleb(-9)
    for more, rules in (
        ((), EVERYTHING),
        ((("group_by", "line_item"),), EVERYTHING),
        # The two models in dollars have too few users, and are merged with nothing in euros.
        ((("group_by", "line_item"),), ReportsConfig(minimum_group=2)),
    ):
        [bucket] = walk(books, "costs", [*query, *more], rules)
        sums = {"eur": Decimal(0), "usd": Decimal(0)}
        for result in bucket["results"]:
            sums[result["amount"]["currency"]] += Decimal(result["amount"]["value"])
        assert sums == {"eur": 2 * each, "usd": 2 * each}
        assert more or len(bucket["results"]) == 2
