"""`usage` with its filters and forms, and `export`."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.domain.usage import AttemptRecord, Usage, UsageDetails
from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger
from llmgw_core.testing.bookkeeping import book as bookkeeping
from llmgw_core.testing.bookkeeping import priced, rates, repriced, sheet
from llmgw_core.testing.usage_records import STARTED_NS, usage_record
from llmgw_server.cli import main

from .conftest import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.domain.usage import UsageRecord

    Export = Callable[..., tuple[int, str, str]]

DAY_NS = 86_400 * 10**9


def book(path: Path, *records: UsageRecord) -> None:
    async def insert() -> None:
        store = Store(f"sqlite:///{path / 'llmgw.db'}")
        await store.open()
        await Ledger(store).insert(records, [])
        await store.aclose()

    asyncio.run(insert())


@pytest.fixture
def booked(tmp_path: Path) -> None:
    details = UsageDetails(cache_write_tokens=3, images=2)
    book(
        tmp_path,
        usage_record(1, usage=Usage(10, 5, 2, 1, "provider", "", details)),
        usage_record(2, model="large", served_model="small", endpoint="embeddings"),
        usage_record(3, organization_id="org-2", user_id=None, key_id="=key-9", cost_center="c"),
        usage_record(4, started_ns=STARTED_NS + 40 * DAY_NS, deployment="small/b", user_id="u-2"),
    )


@pytest.mark.usefixtures("booked")
@pytest.mark.parametrize(
    ("words", "calls"),
    [
        ("", 4),
        ("--organization org-1", 3),
        ("--model small", 3),
        ("--model large --model small", 4),
        ("--served-model large", 0),
        ("--deployment small/b", 1),
        ("--endpoint embeddings --model large", 1),
        ("--cost-center c", 1),
        ("--since 2026-02-03 --model small", 1),
        ("--until 2026-02-03 --model small", 2),
    ],
)
def test_filters_choose(llmgw: Callable[..., str], words: str, calls: int, tmp_path: Path) -> None:
    if "--organization" in words:  # names are those of the tenancy
        llmgw("orgs", "create", "acme")
        id = json.loads(llmgw("orgs", "list", "--json"))[0]["id"]
        book(tmp_path, *(usage_record(10 + n, organization_id=id) for n in range(3)))
        words = "--organization acme"
    found = json.loads(llmgw("usage", "--by", "month", "--json", *words.split()))
    assert sum(line["calls"] for line in found) == calls


@pytest.mark.usefixtures("booked")
def test_what_fits_nothing_says_so(llmgw: Callable[..., str]) -> None:
    assert llmgw("usage", "--model", "none") == "No usage that fits.\n"


@pytest.mark.usefixtures("booked")
def test_users_and_their_keys_are_shown_only_with_permission(
    llmgw: Callable[..., str], fails: Callable[..., str], tmp_path: Path
) -> None:
    refusal = fails("usage", "--by", "user")
    assert "`reports.users` in the configuration allows them" in refusal
    lines = json.loads(llmgw("usage", "--by", "key", "--json"))
    assert {line["key"]: line["calls"] for line in lines} == {"": 3, "=key-9": 1}
    (tmp_path / "llmgw.yaml").write_text(CONFIG + "reports: {users: true}\n")
    lines = json.loads(llmgw("usage", "--by", "user", "--json"))
    assert {line["user"]: line["calls"] for line in lines} == {"": 1, "user-1": 2, "u-2": 1}
    (tmp_path / "llmgw.yaml").write_text(CONFIG + "reports: {minimum_group: 2}\n")
    lines = json.loads(llmgw("usage", "--by", "organization,day", "--json"))
    assert [line["calls"] for line in lines] == [1]


@pytest.mark.usefixtures("booked")
def test_csv_is_exact_and_safe_and_has_every_class(llmgw: Callable[..., str]) -> None:
    text = llmgw("usage", "--by", "key,month", "--csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["key"] for row in rows] == ["", "", "'=key-9"]
    assert [row["month"] for row in rows] == ["2026-02", "2026-03", "2026-02"]
    assert [row["charge"] for row in rows] == ["0.000005000", "0.000002500", "0.000002500"]
    assert [row["cache_write_tokens"] for row in rows] == ["3", "0", "0"]
    assert (rows[0]["images"], rows[0]["currency"], rows[0]["calls"]) == ("2", "USD", "2")
    assert "\r\n" in text or text.count("\n") == 4


@pytest.mark.usefixtures("booked")
def test_wide_tables_have_every_class_of_tokens(llmgw: Callable[..., str]) -> None:
    narrow = llmgw("usage", "--by", "model").splitlines()
    wide = llmgw("usage", "--by", "model", "--wide").splitlines()
    assert "CACHE_WRITE" not in narrow[0]
    titles = wide[0].split()
    assert {"CACHED_INPUT", "REASONING", "AUDIO_OUTPUT", "ACCEPTED_PREDICTION"} < set(titles)
    total = dict(zip(titles, wide[-1].split(), strict=True))
    assert (total["CACHE_WRITE"], total["CACHED_INPUT"], total["IMAGES"]) == ("3", "8", "2")


def test_amounts_of_another_currency_have_lines_and_a_total_of_their_own(
    llmgw: Callable[..., str], tmp_path: Path
) -> None:
    price = sheet(rates(10**9, 10**9))

    async def insert() -> None:
        store = Store(f"sqlite:///{tmp_path / 'llmgw.db'}")
        await store.open()
        records = [priced(n, price, Usage(500, 500), model=f"m{n}") for n in (1, 2)]
        await bookkeeping(store, Ledger(store), [*records, usage_record(3)], price)
        await store.aclose()

    asyncio.run(insert())
    lines = [line.split() for line in llmgw("usage", "--by", "model").splitlines()]
    assert lines[0][:5] == ["MODEL", "CURRENCY", "CALLS", "INPUT", "OUTPUT"]
    assert [(line[0], line[1], line[-2]) for line in lines[1:]] == [
        ("m1", "EUR", "0.001"),
        ("m2", "EUR", "0.001"),
        ("small", "USD", "0.0000025"),
        ("TOTAL", "EUR", "0.002"),
        ("TOTAL", "USD", "0.0000025"),
    ]
    found = json.loads(llmgw("usage", "--by", "month,currency", "--json"))
    assert {line["currency"]: line["charge_nano"] for line in found} == {
        "EUR": 2_000_000,
        "USD": 2_500,
    }


def test_csv_and_json_at_once_are_a_wrong_command_line(llmgw: Callable[..., str]) -> None:
    with pytest.raises(SystemExit):
        llmgw("usage", "--csv", "--json")


@pytest.fixture
def export(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Export:
    """Runs `export`; its exit code and what it wrote to the two outputs."""
    (tmp_path / "llmgw.yaml").write_text(CONFIG)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["export", *words, "--config", str(tmp_path / "llmgw.yaml")])
        captured = capfdbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode()

    return run


def rows_of(form: str, text: str) -> list[dict[str, Any]]:
    if form == "csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_goes_on_from_its_file_and_has_each_row_once(
    export: Export, tmp_path: Path, form: str
) -> None:
    price, other = sheet(rates(1000, 2000)), sheet(rates(3000, 1))
    first = [priced(n, price, Usage(10**6, n)) for n in range(3)]
    book(tmp_path, *first)
    out = tmp_path / "rows"
    words = ("--format", form, "--out", str(out))
    assert export(*words) == (0, "", "3 rows; go on with --after 3.\n")
    assert export(*words) == (0, "", "0 rows; go on with --after 3.\n")
    whole = out.read_bytes()
    out.write_bytes(whole[:-5])  # as after a kill in the middle of a row
    assert export(*words)[2].startswith("1 rows;")
    assert out.read_bytes() == whole
    corrected = repriced(first[0], other)
    book(tmp_path, *corrected)
    book(tmp_path, priced(7, other, Usage(1, 1)))
    assert export(*words)[2] == "3 rows; go on with --after 6.\n"
    rows = rows_of(form, out.read_text())
    assert [int(row["cursor"]) for row in rows] == list(range(1, 7))
    assert sum(int(row["charge"]) for row in rows) == sum(
        each.charge for each in [*first, *corrected, priced(7, other, Usage(1, 1))]
    )
    assert [row["entry"] for row in rows[3:]] == ["reversal", "rebooking", "call"]
    assert {row["corrects"] for row in rows[3:5]} == {first[0].call_id}
    assert rows[-1]["price"] == other.id


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_export_that_is_printed_goes_on_behind_a_cursor(
    export: Export, tmp_path: Path, form: str
) -> None:
    book(tmp_path, *(usage_record(n, started_ns=STARTED_NS + n * DAY_NS) for n in range(5)))
    code, text, said = export("--format", form, "--after", "2")
    assert (code, said) == (0, "3 rows; go on with --after 5.\n")
    assert [int(row["cursor"]) for row in rows_of(form, text)] == [3, 4, 5]
    _, text, _ = export("--format", form, "--since", "2026-02-03", "--until", "2026-02-05")
    assert [row["call_id"] for row in rows_of(form, text)] == ["call-1", "call-2"]


def test_rows_lose_nothing_of_what_the_books_have(export: Export, tmp_path: Path) -> None:
    details = UsageDetails(1, 2, 3, 4, 5, 6, 7, 8)
    paid = Usage(3, 4, 1, 2, "estimated", "chars", details)
    lost = AttemptRecord("small/b", "small", "timeout", 0, 9, 5, 6, "retried", "p1", paid)
    good = AttemptRecord("small/a", "small", "ok", 200, 9, 7, 8, "", "p2")
    record = usage_record(
        1, usage=Usage(9, 9, 1, 2, "estimated", "chars", details), attempts=(lost, good), parent="x"
    )
    book(tmp_path, record)
    [row] = rows_of("jsonl", export()[1])
    flat = {name: value for name, value in row.items() if name in record.__struct_fields__}
    read = {
        **flat,
        "usage": [
            *(row[name] for name in Usage.__struct_fields__[:4]),
            row["usage_source"],
            row["usage_method"],
            [row[name] for name in UsageDetails.__struct_fields__],
        ],
        "attempts": [
            [
                *list(each.values())[:-1],
                each["usage"]
                and [*list(each["usage"].values())[:-1], [*each["usage"]["details"].values()]],
            ]
            for each in row["attempts"]
        ],
    }
    values = [read[name] for name in record.__struct_fields__]
    assert msgspec.convert(values, type(record), strict=False) == record


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("text", ["a note\n", "1;2\n", "a note without an end"])
def test_a_file_of_somebody_else_is_left_alone(
    export: Export, tmp_path: Path, form: str, text: str
) -> None:
    book(tmp_path, usage_record(1))
    out = tmp_path / "notes.txt"
    out.write_text(text)
    code, _, said = export("--format", form, "--out", str(out))
    assert (code, out.read_text()) == (1, text)
    assert f"is no file that export has written as {form}" in said


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_that_ends_in_its_first_line_begins_anew(
    export: Export, tmp_path: Path, form: str
) -> None:
    book(tmp_path, usage_record(1))
    out = tmp_path / "rows"
    words = ("--format", form, "--out", str(out))
    export(*words)
    whole = out.read_bytes()
    for size in (0, 3, 12):
        out.write_bytes(whole[:size])
        assert export(*words)[0] == 0
        assert out.read_bytes() == whole


def test_what_cannot_be_written_is_a_sentence(export: Export, tmp_path: Path) -> None:
    code, _, said = export("--out", str(tmp_path / "nowhere" / "rows"))
    assert code == 1
    assert said.endswith("rows cannot be written: No such file or directory.\n")
    with pytest.raises(SystemExit):
        export("--after", "-1")
