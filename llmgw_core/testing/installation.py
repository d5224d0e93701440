"""A whole gateway in one line, for tests: models on `ModelServer`s, a tenant with a key, its books.

    async with install(tmp_path, {"m": [at(server)]}) as installed:
        reply = await installed.client.chat("m")
        [record] = await installed.records()

Nothing in it is a stand-in: the database, the journal and the sockets are real.
"""

from __future__ import annotations

import datetime as dt
import time
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.config.schema import (
    AccountingConfig,
    Config,
    DeploymentConfig,
    LimitsConfig,
    ModelConfig,
    RequestLimits,
    ServerConfig,
)
from llmgw_core.config.schema_aliases import AliasConfig
from llmgw_core.config.schema_brake import BrakeConfig
from llmgw_core.config.schema_prices import PriceEntry, TokenPrices
from llmgw_core.config.schema_reports import ReportsConfig
from llmgw_core.config.schema_routing import RoutingConfig
from llmgw_core.domain.alias import Variant
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.client import Client
from llmgw_core.testing.database import provide_database
from llmgw_core.testing.tenants import Tenant, create_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from llmgw_core.config.schema import PluginConfig
    from llmgw_core.domain.usage import AttemptRecord, UsageRecord

    Install = Callable[..., Awaitable["Installation"]]
    """`install` as a fixture gives it to tests: without directory, closed by the fixture."""

INPUT_PRICE, OUTPUT_PRICE = 1000, 2000
"""Nano-units per token of every model that says nothing else."""
USUAL_CHARGE = 7 * INPUT_PRICE + 3 * OUTPUT_PRICE
"""Of a call with the usage that the model server reports unless it is told otherwise."""
PRICES = (PriceEntry(dt.date(2020, 1, 1), TokenPrices(input=Decimal(1), output=Decimal(2))),)


def at(upstream: Any, name: str = "a", *, zone: str = "onprem", **fields: Any) -> DeploymentConfig:
    """A deployment on whatever has a `port`, or on a port number. `fields` are those of
    `DeploymentConfig`."""
    port = upstream if isinstance(upstream, int) else upstream.port
    return DeploymentConfig(name, "canonical", zone, options={"port": port}, **fields)


def served_by(*deployments: DeploymentConfig, **fields: Any) -> ModelConfig:
    """A model; `fields` are those of `ModelConfig`, prices have a default."""
    return ModelConfig(deployments=deployments, **{"prices": PRICES, **fields})


def leading_to(*models: str, **fields: Any) -> AliasConfig:
    """An alias; each of `models` is a name, or `NAME=WEIGHT`. `fields` are those of
    `AliasConfig`."""
    parts = [model.partition("=") for model in models]
    variants = tuple(Variant(name, int(weight or 1)) for name, _, weight in parts)
    return AliasConfig(variants, **fields)


class Installation(msgspec.Struct, frozen=True):
    """A running gateway, a tenant, and a client that has the tenant's key."""

    gateway: Gateway
    tenant: Tenant
    client: Client

    async def another(self, name: str, **narrowing: Any) -> Client:
        """A client of a further tenant; `narrowing` as for `create_tenant`."""
        tenant = await create_tenant(self.gateway.store, name, **narrowing)
        return Client(self.gateway, tenant.key)

    async def records(self) -> list[UsageRecord]:
        """What is on the books after the journal was moved into the ledger, in order, and calls of
        plugins before the call that they were made for: rows of one commit need not be."""
        await self.gateway.mover.move_once()
        records = [row.record for row in await self.gateway.ledger.rows(limit=1_000_000)]
        places = {record.call_id: place for place, record in enumerate(records)}
        return sorted(
            records,
            key=lambda each: (
                places.get(each.parent or "", places[each.call_id]),
                each.parent is None,
            ),
        )

    async def only_record(self) -> UsageRecord:
        """The one that is on the books."""
        [record] = await self.records()
        return record

    async def attempts(self) -> list[AttemptRecord]:
        """Those of the last call on the books."""
        return list((await self.records())[-1].attempts)


@asynccontextmanager
async def install(
    directory: Path,
    models: Mapping[str, Sequence[DeploymentConfig] | ModelConfig],
    *,
    aliases: Mapping[str, AliasConfig] | None = None,
    tenant: Mapping[str, Any] | None = None,
    plugins: Sequence[tuple[str, type[Any]]] = (),
    sections: Sequence[PluginConfig] = (),
    requests: RequestLimits | None = None,
    accounting: AccountingConfig | None = None,
    server: ServerConfig | None = None,
    routing: RoutingConfig | None = None,
    brake: BrakeConfig | None = None,
    reports: ReportsConfig | None = None,
    limiter: str = "memory",
    limiter_clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Installation]:
    """Start a gateway whose data lie in `directory`, which exists. `tenant` are arguments of
    `create_tenant`, `sections` the configuration of `plugins`. Journal records stay where they
    are until somebody asks for them."""
    config = Config(
        models={
            name: model if isinstance(model, ModelConfig) else served_by(*model)
            for name, model in models.items()
        },
        aliases=dict(aliases or {}),
        plugins=tuple(sections),
        requests=requests or RequestLimits(),
        server=server or ServerConfig(),
        routing=routing or RoutingConfig(),
        brake=brake or BrakeConfig(),
        reports=reports or ReportsConfig(),
        limits=LimitsConfig(limiter),
        accounting=accounting or AccountingConfig(move_interval=3600.0, segment_bytes=1 << 20),
    )
    enabled = [("canonical", CanonicalPlugin), *plugins]
    await provide_database(directory)
    async with Gateway.open(
        config, base_dir=directory, plugins=enabled, limiter_clock=limiter_clock
    ) as gateway:
        created = await create_tenant(gateway.store, **(tenant or {}))
        yield Installation(gateway, created, Client(gateway, created.key))
