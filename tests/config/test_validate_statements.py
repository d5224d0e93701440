"""What the section `statements` may say."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
from llmgw_core.config.schema_statements import PoolConfig, StatementsConfig
from llmgw_core.config.validate_statements import statements_errors

MODELS = {"llama": ModelConfig((DeploymentConfig("rack-1", "openai", "onprem"),))}


def errors(section: StatementsConfig) -> list[str]:
    return [str(error) for error in statements_errors(Config(models=MODELS, statements=section))]


def pool(**fields: object) -> StatementsConfig:
    values = {"monthly": Decimal(4000), "models": ("llama",), **fields}
    return StatementsConfig(pools={"gpu": PoolConfig(**values)})  # type: ignore[arg-type]


def test_what_makes_sense_is_no_error() -> None:
    assert errors(StatementsConfig()) == []
    assert errors(StatementsConfig(timezone="Europe/Berlin", decimals=9, grace=0.0)) == []
    weights = {"input": Decimal(1), "cached_input": Decimal("0.1"), "output": Decimal(0)}
    whole = pool(
        deployments=("llama/rack-1", "sold/last-year"),
        weights=weights,
        capacity=Decimal("0.5"),
        valid_from=dt.date(2026, 1, 1),
        valid_until=dt.date(2026, 1, 2),
    )
    assert errors(whole) == []


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (StatementsConfig(timezone="Berlin"), "statements.timezone: is no time zone"),
        (StatementsConfig(timezone=""), "statements.timezone: is no time zone"),
        (StatementsConfig(decimals=10), "statements.decimals: must be from 0 to 9"),
        (StatementsConfig(grace=float("nan")), "statements.grace: must be 0 seconds or more"),
        (pool(monthly=Decimal(-1)), "statements.pools.gpu.monthly: must be an amount from 0"),
        (pool(monthly=Decimal("0.0000000001")), "at most nine decimals"),
        (pool(monthly=Decimal("Infinity")), "must be an amount from 0"),
        (pool(models=()), "a pool names the `deployments` or `models`"),
        (pool(models=("lama",)), "unknown name `lama`; did you mean `llama`?"),
        (pool(deployments=("llama/rack1",)), "did you mean `llama/rack-1`?"),
        (pool(weights={"inputs": Decimal(1)}), "unknown class of tokens `inputs`; did you mean"),
        (pool(weights={"zzz": Decimal(1)}), "unknown class of tokens `zzz`; there are `accepted"),
        (pool(weights={"input": Decimal(-1)}), "weights.input: must be a number from 0"),
        (pool(capacity=Decimal(0)), "capacity: must be more than 0"),
        (
            pool(valid_from=dt.date(2026, 1, 1), valid_until=dt.date(2026, 1, 1)),
            "until: must lie behind `from`",
        ),
    ],
)
def test_what_does_not_is_told_with_its_path(section: StatementsConfig, says: str) -> None:
    found = errors(section)
    assert len(found) == 1
    assert says in found[0]
