"""The import of a public price map: exact numbers, and nothing left out in silence."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.decode import decode
from llmgw_core.config.document import read_document
from llmgw_core.config.schema import Config
from llmgw_core.config.schema_prices import TierPrices
from llmgw_server.cli import main
from llmgw_server.cli.price_map import as_yaml, imported, read_map

MAP = Path(__file__).with_name("price_map.json")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["prices", "import", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def as_models(text: str) -> dict[str, Any]:
    document = read_document(text)
    assert isinstance(document, dict)
    return document


def test_a_map_becomes_prices_that_a_configuration_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, str(MAP))
    assert code == 0
    found = as_models(out)
    assert found["plain-model"]["prices"] == [
        {
            "currency": "USD",
            "cost": {
                "input": Decimal("2.5"),
                "output": 10,
                "cached_input": Decimal("1.25"),
                "cache_write": Decimal("3.125"),
            },
        }
    ]
    [rich] = found["rich/model:1"]["prices"]
    assert rich["cost"] == {
        "input": 3,
        "output": 15,
        "reasoning": 20,
        "audio_input": 40,
        "audio_output": 80,
        "image": Decimal("0.0048"),
        "call": Decimal("0.035"),
    }
    assert rich["tiers"] == [
        {"above": 128_000, "cost": {"input": 4}},
        {
            "above": 200_000,
            "cost": {"input": 6, "output": Decimal("22.5"), "cached_input": Decimal("0.6")},
        },
    ]
    deployments = [{"name": "a", "backend": "b", "zone": "z"}]
    document = {
        "models": {name: {**model, "deployments": deployments} for name, model in found.items()}
    }
    assert set(decode(document, Config).models) == set(found)
    assert set(found) == {"fine-model", "plain-model", "rich/model:1"}
    assert set(rich["tiers"][1]["cost"]) <= set(TierPrices.__struct_fields__)


def test_it_is_said_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, str(MAP))
    assert err.splitlines() == [
        "3 of 4 entries have prices by tokens, images or calls.",
        "left out, without such a price: spoken-model",
        "left out: cache_creation_input_token_cost_above_1hr of 1 entry; there is no class for it.",
        "left out: input_cost_per_image_above_128k_tokens of 1 entry; there is no class for it.",
        "left out: input_cost_per_second of 1 entry; there is no class for it.",
        "left out: input_cost_per_token_batches of 1 entry; there is no class for it.",
        "left out: search_context_cost_per_query of 1 entry; there is no class for it.",
        "rounded to the smallest step, 0.000000001: input_cost_per_token of fine-model.",
    ]


def test_entries_are_chosen_and_dated_and_written_into_a_new_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "prices.yaml"
    words = (str(MAP), "--models", "plain*", "--from", "2026-03-01", "--out", str(file))
    assert run(capsys, *words)[:2] == (0, "")
    [entry] = as_models(file.read_text())["plain-model"]["prices"]
    assert (entry["from"], entry["currency"]) == ("2026-03-01", "USD")
    code, _, err = run(capsys, *words)
    assert (code, err) == (1, f"llmgw-server: {file} exists; name a new file.\n")
    code, _, err = run(capsys, str(MAP), "--out", str(tmp_path / "no" / "prices.yaml"))
    assert code == 1
    assert "cannot be written: No such file" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read as a price map: it is no JSON."),
        ("[]", "cannot be read as a price map: it is no mapping of model names"),
        ('{"a": 1}', "cannot be read as a price map: it is no mapping of model names"),
        ('{"a": {}}', "No entry of the map with a price fits"),
    ],
)
def test_what_is_no_map_is_refused_with_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "map.json"
    file.write_text(text)
    code, out, err = run(capsys, str(file))
    assert (code, out) == (1, "")
    assert sentence in err


def test_a_map_that_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, str(tmp_path / "none.json"))
    assert code == 1
    assert "cannot be read: No such file" in err


@given(st.decimals(min_value=0, max_value=10_000, places=9))
def test_a_price_per_million_survives_the_way_through_a_float(price: Decimal) -> None:
    text = f'{{"m": {{"input_cost_per_token": {float(price / 10**6)!r}}}}}'
    [entry] = imported(read_map(text), [])
    assert abs(Fraction(entry.cost["input"]) - Fraction(price)) <= Fraction(1, 10**9)
    assert entry.cost["input"] == round(Decimal(repr(float(price / 10**6))) * 10**6, 9)


@pytest.mark.parametrize("value", ["true", '"free"', '"NaN"', "-1", "1e300", "[]", "1e999"])
def test_a_cost_that_is_none_is_left_out(value: str) -> None:
    [entry] = imported(read_map(f'{{"m": {{"input_cost_per_token": {value}}}}}'), [])
    assert (entry.cost, entry.left_out) == ({}, ["input_cost_per_token"])


def test_a_cost_that_is_unknown_is_nothing_to_speak_of() -> None:
    [entry] = imported(read_map('{"m": {"input_cost_per_token": null}}'), [])
    assert (entry.cost, entry.left_out) == ({}, [])
    assert as_yaml([]) == ""
