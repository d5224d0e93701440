from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from llmgw_core.accounting.exchange import NO_RATES, PATH, ExchangeRates, read_rates
from llmgw_core.config.errors import ConfigErrors

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400 * 10**9
CSV = """date,currency,rate
2026-01-02,EUR,1.10

2026-01-05,EUR,1.2
2026-01-02,GBP,1.3
"""
YAML = """
- {date: 2026-01-02, currency: EUR, rate: 1.10}
- {date: 2026-01-05, currency: EUR, rate: "1.2"}
- {date: 2026-01-02, currency: GBP, rate: 1.3}
"""


def ns(day: str, hour: int = 0) -> int:
    return int(dt.datetime.fromisoformat(f"{day}T{hour:02}:00:00+00:00").timestamp()) * 10**9


def written(tmp_path: Path, text: str, name: str = "rates.csv") -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_the_rate_of_a_day_holds_until_there_is_a_later_one(tmp_path: Path) -> None:
    rates = read_rates(written(tmp_path, CSV), "USD")
    assert rates.during("EUR", ns("2026-01-01", 23))[1:] == (ns("2026-01-02"), None)
    friday = (ns("2026-01-02"), ns("2026-01-05"), Decimal("1.10"))
    assert rates.during("EUR", ns("2026-01-02")) == friday
    assert rates.during("EUR", ns("2026-01-04", 23)) == friday
    since, until, rate = rates.during("EUR", ns("2027-01-01"))
    assert (since, rate) == (ns("2026-01-05"), Decimal("1.2"))
    assert until > 2**62
    assert rates.during("JPY", ns("2026-01-04"))[2] is None
    assert rates.last_day("EUR") == dt.date(2026, 1, 5)
    assert rates.last_day("JPY") is None


def test_both_forms_of_the_file_say_the_same(tmp_path: Path) -> None:
    one = read_rates(written(tmp_path, CSV), "USD")
    assert one == read_rates(written(tmp_path, YAML, "rates.yaml"), "USD")
    assert one != read_rates(written(tmp_path, CSV.replace("1.3", "1.4"), "other.csv"), "USD")
    assert read_rates("", "USD") is NO_RATES
    assert read_rates(written(tmp_path, "", "empty.yml"), "USD") == ExchangeRates({})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2026-01-02,USD,1", "is the installation's own currency, which has no rate"),
        ("02.01.2026,EUR,1", "`02.01.2026` is no date such as 2026-03-01"),
        ("2026-01-02,EUR,1 000", "`1 000` is no number"),
        ("2026-01-02,EUR,-1", "`-1` is no rate; it is more than 0 and at most 1000000000"),
        ("2026-01-02,EUR,nan", "`nan` is no rate; it is more than 0 and at most 1000000000"),
        ("2026-01-02,,1", "the currency is missing"),
        ("2026-01-02,EUR", "must have date, currency, rate"),
        ("2026-01-02,EUR,1,2", "must have date, currency, rate"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_its_reason(
    tmp_path: Path, line: str, reason: str
) -> None:
    file = written(tmp_path, f"date,currency,rate\n2026-01-01,EUR,1.1\n{line}\n")
    with pytest.raises(ConfigErrors) as caught:
        read_rates(file, "USD")
    [error] = caught.value.errors
    assert (error.path, error.message) == (PATH, f"{file}, line 3: {reason}.")


def test_every_wrong_line_is_named_and_a_day_has_one_rate(tmp_path: Path) -> None:
    file = written(tmp_path, f"{CSV}2026-01-05,EUR,1.25\n2026-01-06,EUR,x\n")
    with pytest.raises(ConfigErrors) as caught:
        read_rates(file, "USD")
    assert [error.message for error in caught.value.errors] == [
        f"{file}, line 6: EUR has a rate on 2026-01-05 already.",
        f"{file}, line 7: `x` is no number.",
    ]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("x.csv", "day,currency,rate\n", ", line 1: must be the columns date,currency,rate."),
        ("x.csv", "", ", line 1: must be the columns date,currency,rate."),
        ("x.yaml", "a: 1", " must be a list of mappings with date, currency, rate."),
        ("x.yaml", "[1]", ", entry 1: must have date, currency, rate."),
        ("x.yaml", "- {date: 1, date: 2}", ": "),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    file = written(tmp_path, text, name)
    with pytest.raises(ConfigErrors) as caught:
        read_rates(file, "USD")
    assert caught.value.errors[0].message.startswith(f"{file}{reason}")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"cannot be read: No such file"):
        read_rates(str(tmp_path / "none.csv"), "USD")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigErrors, match=r"is not UTF-8 text"):
        read_rates(str(tmp_path / "bytes.csv"), "USD")
