"""A reload: whole or not at all, without touching what runs, and keeping what has not changed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import Config
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.limits import Limits
from llmgw_core.gateway import Gateway
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import ModelServer
from llmgw_core.testing.reloads import HeldStreams, begun, changed, settled, with_models

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.testing.installation import Install


async def test_models_come_and_go(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    result = await here.gateway.reload(with_models(here, n=[at(server)]))
    assert (result.generation, result.changed) == (2, ("models.m", "models.n"))
    assert result.kept == ("canonical",)
    assert (await here.client.chat("n")).status == 200
    assert (await here.client.chat("m")).status == 404
    listed = (await here.client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == ["n"]


async def test_nothing_is_done_when_nothing_has_changed(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    handle = here.gateway.handle
    result = await here.gateway.reload(here.gateway.config)
    assert (result.generation, result.changed, result.kept) == (1, (), ("canonical",))
    assert here.gateway.handle == handle


async def test_a_limit_changes_at_once_and_what_was_counted_stays(
    installed: Install, server: ModelServer
) -> None:
    def limited(rpm: int) -> Config:
        return with_models(here, m=served_by(at(server), limits=Limits(rpm=rpm)))

    here = await installed({"m": served_by(at(server), limits=Limits(rpm=2))})
    for status in (200, 200, 429):
        assert (await here.client.chat("m")).status == status
    await here.gateway.reload(limited(3))
    reply = await here.client.chat("m")
    assert (reply.status, reply.headers["x-ratelimit-limit-requests"]) == (200, "3")
    assert (await here.client.chat("m")).status == 429
    await here.gateway.reload(limited(1))
    assert (await here.client.chat("m")).status == 429


async def test_parallel_calls_of_the_generation_before_are_still_counted(
    installed: Install,
) -> None:
    held = HeldStreams()
    async with held.upstream as upstream:
        here = await installed({"m": served_by(at(upstream), limits=Limits(parallel=1))})
        task, _ = await begun(here.client, "m")
        model = served_by(at(upstream), limits=Limits(parallel=1), tags=("new",))
        await here.gateway.reload(with_models(here, m=model))
        assert (await here.client.chat("m")).status == 429
        held.going_on.set()
        await task
        assert (await here.client.chat("m", stream=True)).status == 200


async def test_every_error_is_told_and_nothing_changes(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    wrong = with_models(
        here, m=served_by(at(server), fallbacks=("x", "y")), n=[at(server, zone="")]
    )
    with pytest.raises(ConfigError) as caught:
        await here.gateway.reload(wrong)
    assert len(str(caught.value).splitlines()) == 3
    assert (await here.client.chat("m")).status == 200


async def test_reloads_at_the_same_time_come_one_after_the_other(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    wanted = [with_models(here, m=served_by(at(server), tags=(tag,))) for tag in "abc"]
    results = await asyncio.gather(*(here.gateway.reload(config) for config in wanted))
    assert [result.generation for result in results] == [2, 3, 4]
    assert here.gateway.catalog["m"].tags == ("c",)


async def test_whoever_has_kept_the_old_entrance_gets_the_new_one(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})

    class Keeper:
        handle = staticmethod(here.gateway.handle)

    await here.gateway.reload(with_models(here, n=[at(server)]))
    await settled(lambda: here.gateway.generations == 1)
    keeper: Any = Keeper()
    assert (await Client(keeper, here.client.key).chat("n")).status == 200
    await here.gateway.reload(with_models(here, o=[at(server)]))
    assert (await Client(keeper, here.client.key).chat("o")).status == 200


@pytest.mark.parametrize("transport", ["httptools", "aiohttp"])
async def test_warm_connections_stay_and_those_nobody_uses_go(
    installed: Install, server: ModelServer, transport: str
) -> None:
    async with ModelServer() as other:
        here = await installed(
            {"m": [at(server)], "n": [at(other, transport=transport)]},
        )
        assert (await here.client.chat("m")).status == 200
        assert (await here.client.chat("n")).status == 200
        await here.gateway.reload(with_models(here, m=served_by(at(server), tags=("t",))))
        await other._upstream.until(lambda: other._upstream.open == 0)
        assert (await here.client.chat("m")).status == 200
        assert server.accepted == 1
        await settled(lambda: here.gateway.generations == 1)
        assert [way.kind for way in here.gateway._foundation.transports._open] == ["httptools"]
        back = with_models(here, n=[at(other, transport=transport)])
        await here.gateway.reload(back)
        assert (await here.client.chat("n")).status == 200


async def test_a_running_stream_keeps_its_connection_although_nobody_else_uses_the_origin(
    installed: Install, server: ModelServer
) -> None:
    held = HeldStreams()
    async with held.upstream as upstream:
        here = await installed({"m": [at(upstream)]})
        first, sink = await begun(here.client, "m")
        [transport] = here.gateway._foundation.transports._open.values()
        transport.retain(frozenset())
        held.going_on.set()
        await first
        assert sink.body.endswith(b"data: [DONE]\n\n")
        await upstream.until(lambda: upstream.open == 0)


async def test_weights_that_have_changed_are_balanced_from_the_beginning(
    installed: Install, server: ModelServer
) -> None:
    async with ModelServer() as other:
        here = await installed({"m": [at(server, "a", weight=99), at(other, "b")]})
        for _ in range(10):
            await here.client.chat("m")
        await here.gateway.reload(with_models(here, m=[at(server, "a"), at(other, "b")]))
        before = len(other.requests)
        for _ in range(10):
            await here.client.chat("m")
        assert len(other.requests) - before == 5


async def test_a_gateway_without_a_file_needs_to_be_told_what_to_load(tmp_path: Path) -> None:
    async with Gateway.open(Config(), base_dir=tmp_path) as gateway:
        with pytest.raises(ConfigError, match="opened without a file"):
            await gateway.reload()
        file = tmp_path / "other.yaml"
        file.write_text("requests: {attempts: 2}\n")
        assert (await gateway.reload(file)).changed == ("requests.attempts",)
        assert gateway.config.requests.attempts == 2


async def test_nothing_of_an_old_generation_stays_in_memory(
    installed: Install, server: ModelServer
) -> None:

    here = await installed({"m": [at(server)]})
    await here.client.chat("m")
    old = weakref.ref(here.gateway._generation)
    await here.gateway.reload(with_models(here, n=[at(server)]))
    await settled(lambda: here.gateway.generations == 1)
    await asyncio.sleep(0)
    gc.collect()
    assert old() is None


async def test_what_outlives_configurations_takes_over_what_the_new_one_says(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    gateway, lasting = here.gateway, here.gateway._foundation
    await here.client.chat("m")
    config = gateway.config
    await gateway.reload(
        changed(
            here,
            store=msgspec.structs.replace(config.store, staleness=0.5, serve_stale=7.0),
            accounting=msgspec.structs.replace(config.accounting, move_interval=9.0),
            requests=msgspec.structs.replace(config.requests, default_output_tokens=77),
        )
    )
    assert lasting.mover.interval == 9.0
    assert (lasting.principals._staleness, lasting.principals._serve_stale) == (0.5, 7.0)
    assert lasting.estimator.expected_output("never called") == 77
    assert all(kept.derived is None for kept in lasting.principals._entries.values())
