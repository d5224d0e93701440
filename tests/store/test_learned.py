"""What was learned survives restarts, and a store that is down does no harm to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text

from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.limits.estimate import TokenEstimator
from llmgw_core.store.learned import LearnedLengths
from llmgw_core.store.learned_tables import learned_models

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store


def taught(*models: str) -> TokenEstimator:
    estimator = TokenEstimator()
    for model in models:
        estimator.learn(model, 700, 100, 300, 100)
    return estimator


async def test_a_gateway_goes_on_with_what_the_one_before_has_learned(store: Store) -> None:
    before = taught("m", "n")
    assert await LearnedLengths(store, before).save() == 2
    after = TokenEstimator()
    await LearnedLengths(store, after).load()
    assert after.known() == before.known()


async def test_only_what_has_changed_is_saved(store: Store) -> None:
    estimator = taught("m", "n")
    learned = LearnedLengths(store, estimator)
    await learned.save()
    assert await learned.save() == 0
    estimator.learn("m", 900, 100, 300, 100)
    assert await learned.save() == 1
    again = LearnedLengths(store, estimator)
    await again.load()
    assert await again.save() == 0


async def test_it_is_saved_in_the_background_and_when_the_gateway_closes(store: Store) -> None:
    estimator = taught("m")
    learned = LearnedLengths(store, estimator, interval=0.001)
    learned.start()
    async with asyncio.timeout(10):
        while not (await rows(store)):  # noqa: ASYNC110 -- a row is no event
            await asyncio.sleep(0)
    await learned.aclose()
    await learned.aclose()
    late = LearnedLengths(store, taught("m", "n"))
    late.start()
    await late.aclose()
    assert await rows(store) == ["m", "n"]


async def rows(store: Store) -> list[str]:
    async with store.connect() as connection:
        statement = select(learned_models.c.model).order_by(learned_models.c.model)
        return list((await connection.execute(statement)).scalars())


async def test_a_store_that_is_down_costs_nothing_but_what_it_would_have_kept(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.aclose()
    estimator = taught("m")
    learned = LearnedLengths(store, estimator, interval=0.001)
    await learned.load()
    assert "could not be read" in caplog.text
    learned.start()
    await asyncio.sleep(0.01)
    await learned.aclose()
    assert "could not be saved" in caplog.text
    with pytest.raises(StoreUnavailable):
        await learned.save()
    assert list(estimator.known()) == ["m"]


@pytest.mark.parametrize("column", ["'many'", "''", "-1.0", "9e999", "x'00'"])
async def test_a_row_that_somebody_has_damaged_does_no_harm(store: Store, column: str) -> None:
    await LearnedLengths(store, taught("m")).save()
    async with store.begin() as connection:
        await connection.execute(text(f"UPDATE learned_models SET input_ratio = {column}"))
    estimator = TokenEstimator()
    await LearnedLengths(store, estimator).load()
    assert estimator.known() == {}
