"""The statements on the tables of rollouts. What is allowed is decided in `tenancy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import delete, insert, select

from llmgw_core.domain.alias import EmbeddingTarget, Variant
from llmgw_core.routing.rollouts import Rollout
from llmgw_core.store.rollout_tables import embedding_targets, rollouts

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

_variants = msgspec.json.Decoder(tuple[Variant, ...]).decode


async def all_rollouts(connection: AsyncConnection) -> tuple[Rollout, ...]:
    """The last rollout of every alias that has had one, by alias."""
    rows = await connection.execute(select(rollouts).order_by(rollouts.c.alias))
    return tuple(
        Rollout(**{**dict(row), "base": _variants(row["base"])}) for row in rows.mappings()
    )


async def put_rollout(connection: AsyncConnection, rollout: Rollout) -> None:
    """Insert a rollout in place of the last one of its alias."""
    await connection.execute(delete(rollouts).where(rollouts.c.alias == rollout.alias))
    values = msgspec.structs.asdict(rollout) | {"base": msgspec.json.encode(rollout.base).decode()}
    await connection.execute(insert(rollouts).values(values))


async def targets(connection: AsyncConnection) -> dict[str, EmbeddingTarget]:
    """What aliases of embeddings have led to until now."""
    rows = await connection.execute(select(embedding_targets))
    return {row.alias: EmbeddingTarget(row.model, row.dimensions) for row in rows}


async def put_target(connection: AsyncConnection, alias: str, target: EmbeddingTarget) -> None:
    """From now on `alias` leads to `target`."""
    await connection.execute(delete(embedding_targets).where(embedding_targets.c.alias == alias))
    values = {"alias": alias, "model": target.model, "dimensions": target.dimensions}
    await connection.execute(insert(embedding_targets).values(values))
