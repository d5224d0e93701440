from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.store.principals import StorePrincipals
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.tenants import Tenant, create_tenant

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store


@pytest.fixture
def tenancy(store: Store) -> Tenancy:
    return Tenancy(store, clock=lambda: 1_800_000_000.0)


@pytest.fixture
async def tenant(store: Store) -> Tenant:
    return await create_tenant(store)


@pytest.fixture
def principals(store: Store) -> StorePrincipals:
    return StorePrincipals(store)
