from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.access.principals import PrincipalCache
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.clock import FakeClock
from llmgw_core.testing.principal_source import CountingSource
from llmgw_core.testing.tenants import Tenant, create_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def wall() -> FakeClock:
    return FakeClock(1_800_000_000.0)


@pytest.fixture
def source(store: Store) -> CountingSource:
    return CountingSource(store)


@pytest.fixture
async def cache(
    source: CountingSource, clock: FakeClock, wall: FakeClock
) -> AsyncIterator[PrincipalCache]:
    cache = PrincipalCache(source, clock=clock, wall_clock=wall, staleness=5.0, serve_stale=60.0)
    yield cache
    await cache.aclose()


@pytest.fixture
async def tenant(store: Store) -> Tenant:
    return await create_tenant(store)


@pytest.fixture
async def elsewhere(url: str, store: Store) -> AsyncIterator[Tenancy]:
    """The administrator of another process: another engine on the same file."""
    other = Store(url)
    await other.open()
    yield Tenancy(other)
    await other.aclose()
