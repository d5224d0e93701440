"""The composition root: what it opens, what it refuses to open, and that two live side by side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.backends.canonical import CanonicalSession
from llmgw_core.backends.transport.port import HttpRequest
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.schema import AccountingConfig, Config
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalBackend, CanonicalPlugin
from llmgw_core.testing.client import Client, MemorySink
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.tenants import create_tenant
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment, Origin
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

CANONICAL: list[tuple[str, type[Any]]] = [("canonical", CanonicalPlugin)]
FILE = """
models:
  m:
    prices: [{{from: 2020-01-01, cost: {{input: 1, output: 2}}}}]
    deployments:
      - name: a
        backend: canonical
        zone: onprem
        transport: {transport}
        options: {{port: {port}}}
"""


def with_backend(backend: Any) -> list[tuple[str, type[Any]]]:
    """A plugin that registers `backend` in place of the usual one."""

    class Registers:
        def __init__(self, config: None, context: Any) -> None:
            pass

        @hookimpl
        def register_backends(self) -> list[Any]:
            return [backend]

    return [("special", Registers)]


def named(backend: type[CanonicalBackend]) -> CanonicalBackend:
    made = backend()
    made.name = "special"
    return made


@pytest.mark.parametrize("transport", ["httptools", "aiohttp"])
async def test_a_gateway_of_a_file_keeps_its_data_beside_it(
    tmp_path: Path, server: ModelServer, transport: str
) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text(FILE.format(port=server.port, transport=transport))
    async with Gateway.open(file, plugins=CANONICAL) as gateway:
        tenant = await create_tenant(gateway.store)
        client = Client(gateway, tenant.key)
        assert (await client.chat("m")).status == 200
        assert (await client.chat("m", stream=True)).body.endswith(b"data: [DONE]\n\n")
    assert (tmp_path / "llmgw.db").exists()
    assert (tmp_path / "journal").is_dir()
    async with Gateway.open(file, plugins=CANONICAL) as gateway:
        assert await gateway.ledger.count() == 2
        assert (await Client(gateway, tenant.key).chat("m")).status == 200


async def test_both_transports_serve_one_model(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server, "a"), at(server, "b", transport="aiohttp")]})
    for _ in range(4):
        assert (await here.client.chat("m")).status == 200
    assert {record.deployment for record in await here.records()} == {"m/a", "m/b"}


async def test_two_gateways_in_one_process_know_nothing_of_each_other(
    installed: Install, server: ModelServer
) -> None:
    one = await installed({"m": [at(server)]})
    two = await installed({"n": [at(server)]})
    assert (await one.client.chat("m")).status == 200
    assert (await two.client.chat("m")).status == 404
    assert (await Client(two.gateway, one.tenant.key).chat("n")).status == 401
    assert (len(await one.records()), len(await two.records())) == (1, 0)


async def test_calls_at_the_same_time_do_not_meet(installed: Install, server: ModelServer) -> None:
    here = await installed({"m": [at(server)]})
    replies = await asyncio.gather(
        *(here.client.chat("m", stream=bool(number % 2)) for number in range(40))
    )
    assert {reply.status for reply in replies} == {200}
    assert len({reply.headers["x-request-id"] for reply in replies}) == 40
    assert len(await here.records()) == 40


async def test_a_gateway_that_runs_is_ready_until_its_mover_has_stopped(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server)]})
    assert here.gateway.readiness() == []
    assert here.gateway.new_call_id() != here.gateway.new_call_id()
    await here.gateway.mover.aclose()
    assert here.gateway.readiness() == ["The journal is not being moved into the ledger."]


async def test_plugins_may_ask_for_the_deployments_of_their_backend(
    installed: Install, server: ModelServer
) -> None:
    here = await installed({"m": [at(server, "a")], "n": [at(server, "b")]})
    found = here.gateway.deployments("canonical")
    assert [deployment.id for deployment in found] == ["m/a", "n/b"]
    assert here.gateway.deployments("other") == ()


async def test_every_error_of_a_backend_is_told_with_its_place(
    tmp_path: Path, server: ModelServer
) -> None:
    class Picky(CanonicalBackend):
        def check(self, deployment: Deployment) -> None:
            if deployment.id == "m/a":
                raise ConfigError("no such thing.")
            if deployment.id == "m/b":
                raise LookupError("not ours")
            errors = [ConfigError("one.", path="headers.x"), ConfigError("two.", path="credential")]
            raise ConfigErrors(errors)

    deployments = [replaced(at(server, name), backend="special") for name in "abc"]
    config = Config(models={"m": served_by(*deployments)})
    with pytest.raises(ConfigErrors) as caught:
        async with Gateway.open(config, base_dir=tmp_path, plugins=with_backend(named(Picky))):
            pass
    texts = [str(error) for error in caught.value.errors]
    assert texts == [
        "models.m.deployments[0]: no such thing.",
        "models.m.deployments[1]: the plugin `special` failed in `check`: LookupError: not ours",
        "models.m.deployments[2].options.headers.x: one.",
        "models.m.deployments[2].credential: two.",
    ]


def replaced(deployment: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(deployment, **changes)


async def test_a_journal_without_a_place_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = Config(accounting=AccountingConfig(journal="file/journal"))
    with pytest.raises(ConfigError, match=r"accounting\.journal: the journal cannot be kept"):
        async with Gateway.open(config, base_dir=tmp_path):
            pass


class _TwoSteps(CanonicalSession):
    def requests(self) -> Sequence[HttpRequest]:
        [last] = super().requests()
        return (HttpRequest("POST", "/first", (), b"{}"), last)


class TwoStepBackend(CanonicalBackend):
    """Asks something before each call."""

    def begin(self, call: Call, deployment: Deployment, credential: str) -> CanonicalSession:
        return _TwoSteps(call, deployment, credential)


async def test_a_session_may_need_several_requests(installed: Install, server: ModelServer) -> None:
    special = replaced(at(server), backend="special")
    here = await installed({"m": [special]}, plugins=with_backend(named(TwoStepBackend)))
    assert (await here.client.chat("m")).status == 200
    assert [request.target for request in server.requests] == ["/first", "/v1/chat/completions"]
    assert server.accepted == 1


async def test_a_client_that_leaves_between_the_requests_of_a_session_leaves_nothing_open(
    installed: Install,
) -> None:
    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.send(http_reply(200, b"{}")[:-1])
        await peer.gone()

    async with Upstream(half) as upstream:
        special = replaced(at(upstream), backend="special")
        here = await installed({"m": [special]}, plugins=with_backend(named(TwoStepBackend)))
        sink = MemorySink()
        task = asyncio.ensure_future(here.client.chat("m", sink=sink))
        await upstream.until(lambda: bool(upstream.requests))
        for _ in range(5):
            await asyncio.sleep(0)
        sink.leave()
        await task
        await upstream.until(lambda: upstream.open == 0)
    [record] = await here.records()
    assert record.status == "client_left"


async def test_a_backend_that_has_nowhere_to_go_is_passed_over(
    installed: Install, server: ModelServer
) -> None:
    class Asleep(CanonicalBackend):
        def origin(self, deployment: Deployment) -> Origin:
            raise UpstreamFailure("unavailable", "the engine is not running")

    asleep = replaced(at(server, "x", weight=9), backend="special")
    here = await installed({"m": [asleep, at(server, "y")]}, plugins=with_backend(named(Asleep)))
    assert (await here.client.chat("m")).status == 200
    [record] = await here.records()
    assert [attempt.outcome for attempt in record.attempts] == ["unavailable", "ok"]
