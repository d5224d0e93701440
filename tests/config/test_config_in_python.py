"""A configuration that a program builds is as good, and as well explained, as one of a file."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmgw_core import (
    Config,
    ConfigErrors,
    DeploymentConfig,
    Gateway,
    Limits,
    ModelConfig,
    PriceEntry,
    TokenPrices,
)
from llmgw_core.config.load import typed
from llmgw_core.config.secrets import SecretText


def with_models(**fields: Any) -> Config:
    deployment = DeploymentConfig("a", "canonical", "onprem", options={"port": 1})
    return Config(models={"m": ModelConfig(**{"deployments": [deployment], **fields})})


def test_lists_texts_and_numbers_become_what_the_types_say() -> None:
    entry: Any = PriceEntry(dt.date(2026, 1, 1), TokenPrices(input=0.05, output=1))  # type: ignore[arg-type]
    config = typed(with_models(prices=[entry], tags=["small"], limits=Limits(rpm=3)))
    model = config.models["m"]
    assert model.prices == (
        PriceEntry("2026-01-01", TokenPrices(input=Decimal("0.05"), output=Decimal(1))),
    )
    assert (model.tags, model.limits, model.deployments[0].name) == (("small",), Limits(rpm=3), "a")
    assert typed(config) == config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"limits": {"rpm": "many"}}, r"models\.m\.limits\.rpm: expected `int`"),
        ({"tags": "small"}, r"models\.m\.tags: expected `array`"),
        ({"tags": [Path("x")]}, r"models\.m\.tags\[0\]: expected `str`"),
    ],
)
async def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigErrors, match=said):
        async with Gateway.open(with_models(**fields), base_dir=tmp_path):
            pass


def test_a_text_of_a_secret_file_still_knows_its_file() -> None:
    secret = SecretText("sk-1")
    secret.file = Path("/run/secret")
    options = {"port": 1, "token": secret, "nested": ({"token": secret},)}
    deployment = DeploymentConfig("a", "canonical", "onprem", credential=secret, options=options)
    [found] = typed(with_models(deployments=(deployment,))).models["m"].deployments
    assert found.credential is found.options["token"] is secret
    assert found.options["nested"] == [{"token": secret}]
    assert found.options["nested"][0]["token"] is secret
