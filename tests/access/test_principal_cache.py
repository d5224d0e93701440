from __future__ import annotations

import asyncio
import gc
import secrets
from typing import TYPE_CHECKING

import pytest

from llmgw_core.access import keys, principals
from llmgw_core.access.principals import PrincipalCache
from llmgw_core.tenancy.records import KEY, TEAM
from llmgw_core.testing.principal_source import CountingSource, status_of
from llmgw_core.testing.tenants import Tenant, create_tenant

if TYPE_CHECKING:
    from llmgw_core.domain.access import Principal
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.clock import FakeClock

ADMIN = "admin"


async def test_a_key_is_read_once_and_then_known_at_once(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant
) -> None:
    assert cache.lookup(tenant.key) is None
    entry = await cache.resolve(tenant.key)
    assert entry.principal.key_id == tenant.key_id
    assert [level.kind for level in entry.principal.levels] == [
        "organization",
        "team",
        "user",
        "key",
    ]
    for _ in range(100):
        assert cache.lookup(tenant.key) is entry
        assert await cache.resolve(tenant.key) is entry
    assert (source.finds, source.versions) == (1, 1)


async def test_a_key_disabled_by_another_process_is_refused_within_the_staleness(
    cache: PrincipalCache, clock: FakeClock, tenant: Tenant, elsewhere: Tenancy
) -> None:
    await cache.resolve(tenant.key)
    await elsewhere.disable(KEY, tenant.key_id, actor=ADMIN)
    clock.now += 4.9
    assert cache.lookup(tenant.key) is not None
    clock.now += 0.1
    assert cache.lookup(tenant.key) is None
    assert await status_of(cache, tenant.key) == 401
    assert cache.lookup(tenant.key) is None


async def test_a_poll_makes_a_change_known_before_the_staleness_is_over(
    cache: PrincipalCache, tenant: Tenant, elsewhere: Tenancy
) -> None:
    await cache.resolve(tenant.key)
    await elsewhere.disable(TEAM, tenant.team_id, actor=ADMIN)
    await cache.poll()
    assert await status_of(cache, tenant.key) == 401
    await elsewhere.enable(TEAM, tenant.team_id, actor=ADMIN)
    await cache.poll()
    assert await status_of(cache, tenant.key) == 200


async def test_polling_keeps_entries_fresh_without_reading_them(
    cache: PrincipalCache, clock: FakeClock, source: CountingSource, tenant: Tenant
) -> None:
    entry = await cache.resolve(tenant.key)
    for _ in range(50):
        clock.now += 2.0
        await cache.poll()
        assert cache.lookup(tenant.key) is entry
    assert source.finds == 1


async def test_overdue_polling_is_made_good_by_resolving(
    cache: PrincipalCache, clock: FakeClock, source: CountingSource, tenant: Tenant
) -> None:
    entry = await cache.resolve(tenant.key)
    clock.now += 100.0
    assert cache.lookup(tenant.key) is None
    assert await cache.resolve(tenant.key) is entry
    assert (source.finds, source.versions) == (1, 2)
    assert cache.lookup(tenant.key) is entry


async def test_derived_data_lives_as_long_as_the_principal_is_the_same(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant, elsewhere: Tenancy
) -> None:
    entry = await cache.resolve(tenant.key)
    entry.derived = compiled = object()
    await elsewhere.create_organization("unrelated", actor=ADMIN)
    await cache.poll()
    assert cache.lookup(tenant.key) is None
    assert (await cache.resolve(tenant.key)).derived is compiled
    assert source.finds == 2
    await elsewhere.update(TEAM, tenant.team_id, models=["m"], actor=ADMIN)
    await cache.poll()
    changed = await cache.resolve(tenant.key)
    assert changed.derived is None
    assert changed.principal.levels[1].models == ("m",)
    assert entry.principal.levels[1].models is None, "running calls keep what they began with"


async def test_a_change_during_a_read_leaves_its_result_unverified(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant, elsewhere: Tenancy
) -> None:
    await cache.poll()
    source.find_gate.clear()
    source.asked.clear()
    resolving = asyncio.create_task(cache.resolve(tenant.key))
    await source.asked.wait()
    await elsewhere.disable(KEY, tenant.key_id, actor=ADMIN)
    await cache.poll()
    source.find_gate.set()
    # This call came before the change and may pass; the next one may not.
    await resolving
    assert cache.lookup(tenant.key) is None
    assert await status_of(cache, tenant.key) == 401


@pytest.mark.parametrize("key", ["", "sk-other", "sk-llmgw-" + "a" * 49, "sk-llmgw-\ud800"])
async def test_malformed_keys_are_refused_without_a_read(
    cache: PrincipalCache, source: CountingSource, key: str
) -> None:
    assert cache.lookup(key) is None
    assert await status_of(cache, key) == 401
    assert (source.finds, source.versions) == (0, 0)


async def test_an_unknown_key_is_read_once_until_something_changes(
    cache: PrincipalCache, source: CountingSource, elsewhere: Tenancy
) -> None:
    unknown = keys.generate(secrets.token_bytes)
    for _ in range(5):
        assert await status_of(cache, unknown) == 401
    assert source.finds == 1
    await elsewhere.create_organization("new", actor=ADMIN)
    await cache.poll()
    assert await status_of(cache, unknown) == 401
    assert source.finds == 2


async def test_a_new_key_works_at_once_although_others_were_refused(
    cache: PrincipalCache, elsewhere: Tenancy
) -> None:
    assert await status_of(cache, keys.generate(secrets.token_bytes)) == 401
    organization = await elsewhere.create_organization("new", actor=ADMIN)
    _, key = await elsewhere.create_key(organization=organization.id, actor=ADMIN)
    assert await status_of(cache, key) == 200


async def test_a_key_expires_by_the_wall_clock_on_every_path(
    cache: PrincipalCache, store: Store, wall: FakeClock
) -> None:
    tenant = await create_tenant(store, "brief", expires_at=wall.now + 10)
    entry = await cache.resolve(tenant.key)
    wall.now += 9.9
    assert cache.lookup(tenant.key) is entry
    wall.now += 0.1
    assert cache.lookup(tenant.key) is None
    assert await status_of(cache, tenant.key) == 401
    await store.aclose()
    assert await status_of(cache, tenant.key) == 401


async def test_a_herd_shares_one_read(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant
) -> None:
    entries = await asyncio.gather(*(cache.resolve(tenant.key) for _ in range(200)))
    assert len({id(entry) for entry in entries}) == 1
    assert (source.finds, source.versions) == (1, 1)


async def test_a_caller_that_leaves_does_not_take_the_shared_read_with_it(
    cache: PrincipalCache, source: CountingSource, tenant: Tenant
) -> None:
    await cache.poll()
    source.find_gate.clear()
    source.asked.clear()
    first = asyncio.create_task(cache.resolve(tenant.key))
    second = asyncio.create_task(cache.resolve(tenant.key))
    await source.asked.wait()
    first.cancel()
    await asyncio.wait([first])
    source.find_gate.set()
    assert (await second).principal.key_id == tenant.key_id
    assert source.finds == 1


async def test_the_least_recently_used_keys_are_forgotten(
    source: CountingSource, clock: FakeClock, wall: FakeClock, store: Store
) -> None:
    made = [(await create_tenant(store, f"org {n}")).key for n in range(3)]
    cache = PrincipalCache(source, clock=clock, wall_clock=wall, capacity=2)
    await cache.resolve(made[0])
    await cache.resolve(made[1])
    assert cache.lookup(made[0])
    await cache.resolve(made[2])
    assert cache.lookup(made[0])
    assert cache.lookup(made[1]) is None
    assert len(cache._entries) == 2
    await cache.aclose()


async def test_unknown_keys_are_remembered_within_bounds_and_push_out_no_known_one(
    cache: PrincipalCache, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "_ABSENT_CAPACITY", 3)
    entry = await cache.resolve(tenant.key)
    for _ in range(10):
        assert await status_of(cache, keys.generate(secrets.token_bytes)) == 401
    assert len(cache._absent) == 3
    assert cache.lookup(tenant.key) is entry


async def test_no_plaintext_key_stays_in_memory(cache: PrincipalCache, tenant: Tenant) -> None:
    await cache.resolve(tenant.key)
    await status_of(cache, keys.generate(secrets.token_bytes))
    seen: set[int] = set()
    waiting: list[object] = [cache._entries, cache._absent, cache._reading]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert not (isinstance(thing, str) and thing.startswith(keys.PREFIX))
        waiting += gc.get_referents(thing)


@pytest.mark.parametrize(("staleness", "capacity"), [(0.0, 1), (1.0, 0)])
def test_senseless_settings_are_refused(
    source: CountingSource, staleness: float, capacity: int
) -> None:
    with pytest.raises(ValueError, match="positive"):
        PrincipalCache(source, staleness=staleness, capacity=capacity)


class OnlyKnownKeys:
    """A source that answers for keys in `known` only; questions for others hang."""

    def __init__(self, source: CountingSource, known: set[bytes]) -> None:
        self._source = source
        self.known = known
        self.guesses = 0
        self.version = source.version
        self.find_subject = source.find_subject

    async def find(self, digest: bytes) -> Principal | None:
        if digest in self.known:
            return await self._source.find(digest)
        self.guesses += 1
        await asyncio.get_running_loop().create_future()
        return None


async def test_guessed_keys_do_not_keep_known_ones_from_being_read_again(
    source: CountingSource, tenant: Tenant, elsewhere: Tenancy
) -> None:
    slow = OnlyKnownKeys(source, {keys.digest(tenant.key)})
    cache = PrincipalCache(slow)
    entry = await cache.resolve(tenant.key)
    guesses = [
        asyncio.ensure_future(cache.resolve(keys.generate(secrets.token_bytes)))
        for _ in range(2000)
    ]
    refused, waiting = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    assert {getattr(task.exception(), "status", 0) for task in refused} == {503}
    assert len(waiting) == 1000
    await elsewhere.create_organization("unrelated", actor=ADMIN)
    await cache.poll()
    async with asyncio.timeout(5):
        assert await cache.resolve(tenant.key) is entry
    assert slow.guesses == 2
    await cache.aclose()
    await asyncio.gather(*guesses, return_exceptions=True)
