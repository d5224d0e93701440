from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.store.engine import Store
from llmgw_core.store.principals import StorePrincipals
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.tenants import Tenant, create_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'llmgw.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = Store(url)
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
def tenancy(store: Store) -> Tenancy:
    return Tenancy(store, clock=lambda: 1_800_000_000.0)


@pytest.fixture
async def tenant(store: Store) -> Tenant:
    return await create_tenant(store)


@pytest.fixture
def principals(store: Store) -> StorePrincipals:
    return StorePrincipals(store)
