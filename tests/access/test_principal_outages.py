from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmgw_core.access import principals
from llmgw_core.access.principals import PrincipalCache
from llmgw_core.domain.errors import GatewayError, StoreUnavailable
from llmgw_core.tenancy.records import ORGANIZATION
from llmgw_core.testing.principal_source import CountingSource, status_of

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.clock import FakeClock
    from llmgw_core.testing.tenants import Tenant

ADMIN = "admin"


async def test_known_keys_are_served_stale_while_the_store_is_down(
    cache: PrincipalCache,
    store: Store,
    clock: FakeClock,
    source: CountingSource,
    tenant: Tenant,
) -> None:
    entry = await cache.resolve(tenant.key)
    await store.aclose()
    clock.now += 5.0
    for _ in range(20):
        assert await cache.resolve(tenant.key) is entry
    assert not cache.store_up
    assert source.versions == 2, "a store that is down is not asked by every call"
    clock.now += 55.0
    assert await cache.resolve(tenant.key) is entry
    clock.now += 0.1
    with pytest.raises(GatewayError) as refused:
        await cache.resolve(tenant.key)
    assert (refused.value.status, refused.value.retry_after) == (503, 2.0)


async def test_entries_that_await_a_new_reading_are_served_too_when_the_store_goes_down(
    cache: PrincipalCache, store: Store, tenant: Tenant, elsewhere: Tenancy
) -> None:
    entry = await cache.resolve(tenant.key)
    await elsewhere.create_organization("unrelated", actor=ADMIN)
    await cache.poll()
    await store.aclose()
    assert await cache.resolve(tenant.key) is entry


async def test_unknown_keys_are_503_while_the_store_is_down(
    cache: PrincipalCache, store: Store, tenant: Tenant, source: CountingSource
) -> None:
    await cache.poll()
    await store.aclose()
    for _ in range(5):
        assert await status_of(cache, tenant.key) == 503
    assert source.finds == 1
    assert await status_of(cache, "sk-llmgw-nonsense") == 401


async def test_the_cache_recovers_with_the_store_and_sees_what_was_missed(
    cache: PrincipalCache, store: Store, clock: FakeClock, tenant: Tenant, elsewhere: Tenancy
) -> None:
    await cache.resolve(tenant.key)
    await store.aclose()
    clock.now += 10.0
    assert await status_of(cache, tenant.key) == 200
    await elsewhere.disable(ORGANIZATION, tenant.organization_id, actor=ADMIN)
    await store.open()
    clock.now += 2.0
    assert await status_of(cache, tenant.key) == 401
    assert cache.store_up


async def test_a_store_that_hangs_counts_as_down(
    cache: PrincipalCache,
    clock: FakeClock,
    source: CountingSource,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = await cache.resolve(tenant.key)
    monkeypatch.setattr(principals, "_READ_TIMEOUT", 0.01)
    clock.now += 5.0
    source.version_gate.clear()
    assert await cache.resolve(tenant.key) is entry
    assert not cache.store_up


async def test_the_loop_polls_often_enough_and_survives_outages(
    source: CountingSource, clock: FakeClock, wall: FakeClock, store: Store, tenant: Tenant
) -> None:
    slept: list[float] = []
    turn = asyncio.Event()
    idle = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        idle.set()
        await turn.wait()
        turn.clear()
        clock.now += seconds

    async def next_poll() -> None:
        idle.clear()
        turn.set()
        await idle.wait()

    cache = PrincipalCache(source, clock=clock, wall_clock=wall, sleep=sleep, staleness=5.0)
    cache.start()
    cache.start()
    await idle.wait()
    entry = await cache.resolve(tenant.key)
    for _ in range(10):
        await next_poll()
        assert cache.lookup(tenant.key) is entry
    assert set(slept) == {2.0}
    await store.aclose()
    up = []
    for _ in range(3):
        await next_poll()
        up.append(cache.store_up)
    await store.open()
    await next_poll()
    assert [*up, cache.store_up] == [False, False, False, True]
    assert cache.lookup(tenant.key) is entry
    await cache.aclose()
    await cache.aclose()
    assert source.finds == 1


async def test_closing_ends_reads_that_hang(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant
) -> None:
    await cache.poll()
    source.find_gate.clear()
    source.asked.clear()
    resolving = asyncio.create_task(cache.resolve(tenant.key))
    await source.asked.wait()
    await cache.aclose()
    await asyncio.wait([resolving])
    assert resolving.cancelled()


async def test_a_change_that_cannot_be_read_ends_stale_service_in_time(
    cache: PrincipalCache,
    source: CountingSource,
    clock: FakeClock,
    tenant: Tenant,
    elsewhere: Tenancy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The version answers, the principals do not: the key may have been disabled."""

    async def fail(digest: bytes) -> None:
        raise StoreUnavailable("no")

    entry = await cache.resolve(tenant.key)
    await elsewhere.disable(ORGANIZATION, tenant.organization_id, actor=ADMIN)
    monkeypatch.setattr(source, "find", fail)
    await cache.poll()
    assert await cache.resolve(tenant.key) is entry
    for _ in range(15):
        clock.now += 4.0
        await cache.poll()
        assert await cache.resolve(tenant.key) is entry
    clock.now += 0.1
    await cache.poll()
    assert await status_of(cache, tenant.key) == 503
    monkeypatch.undo()
    clock.now += 5.0
    assert await status_of(cache, tenant.key) == 401
