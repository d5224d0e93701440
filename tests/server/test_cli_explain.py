"""`llmgw-server explain` and `deployments`: asking the gateway that runs, and planning without."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from llmgw_core.domain.load import EngineLoad
from llmgw_core.gateway import Gateway
from llmgw_core.routing.state import Obstacle
from llmgw_core.testing.client import Client
from llmgw_core.testing.tenants import create_tenant
from llmgw_server.app import create_app
from llmgw_server.cli import main

from .conftest import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.tenants import Tenant

    from .conftest import Authority, Running

ADMIN_KEY = "an-admin-key-of-24-bytes"
PLUGIN = """
from llmgw_core.testing.canonical_plugin import CanonicalPlugin

class Plugin(CanonicalPlugin):
    pass
"""
FILE = """
store: {{url: 'sqlite:///llmgw.db'}}
server: {server}
plugins: [{{name: canonical, path: canonical_backend.py}}]
models:
  m:
    prices: [{{from: 2020-01-01, cost: {{input: 1, output: 2}}}}]
    fallbacks: [n]
    context_fallbacks: [n]
    deployments:
      - {{name: a, backend: canonical, zone: onprem, options: {{port: {port}}}}}
      - {{name: b, backend: canonical, zone: world, options: {{port: {port}}}}}
  n:
    prices: [{{from: 2020-01-01, cost: {{input: 1, output: 2}}}}]
    deployments: [{{name: a, backend: canonical, zone: onprem, options: {{port: {port}}}}}]
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


class Here(NamedTuple):
    """A configuration whose gateway runs, or not."""

    config: Path
    gateway: Gateway
    tenant: Tenant
    server: Running | None
    capsys: pytest.CaptureFixture[str]

    async def run(self, *words: str, code: int = 0) -> str:
        """The output of a command, of which the gateway goes on running beside it."""
        self.capsys.readouterr()
        found = await asyncio.to_thread(main, [*words, "--config", str(self.config)])
        captured = self.capsys.readouterr()
        assert found == code, captured.err
        return captured.out if code == 0 else captured.err

    async def explained(self, *words: str) -> Any:
        return json.loads(await self.run("explain", *words, "--json"))


def write(tmp_path: Path, upstream: ModelServer, server: str) -> Path:
    (tmp_path / "canonical_backend.py").write_text(PLUGIN)
    config = tmp_path / "llmgw.yaml"
    config.write_text(FILE.format(server=server, port=upstream.port))
    return config


@asynccontextmanager
async def opened(
    config: Path, capsys: pytest.CaptureFixture[str], *, served: bool = True
) -> AsyncIterator[Here]:
    async with Gateway.open(config) as gateway:
        tenant = await create_tenant(gateway.store, zones=["onprem"])
        if not served:
            yield Here(config, gateway, tenant, None, capsys)
            return
        async with running(create_app(gateway), "uvicorn", configured=True) as server:
            yield Here(config, gateway, tenant, server, capsys)


@pytest.fixture
async def here(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Here]:
    listener = f"{{port: {free_port()}, admin_key: {ADMIN_KEY}}}"
    async with opened(write(tmp_path, server, listener), capsys) as found:
        yield found


async def test_the_gateway_that_runs_is_asked_and_says_what_it_knows(
    here: Here, server: ModelServer
) -> None:
    memory = here.gateway._foundation.memory
    (ejected, _) = here.gateway.catalog["m"].deployments
    memory.put(ejected, Obstacle("breaker", "ejected: 5 failures in a row", memory.clock() + 60))
    text = await here.run("explain", "--key", here.tenant.key, "--model", "m")
    lines = text.splitlines()
    assert lines[0].startswith(f"A call for m by {here.tenant.key_id}, ")
    assert "  grant: m is granted: organization: *" in lines
    order = [line.split()[:2] for line in lines if line[:1].isdigit()]
    assert order == [["1", "n/a"], ["2", "m/a"]]
    assert "ejected: 5 failures in a row; it is tried when nobody else is left" in text
    assert "m/b         zone world is not allowed" in text
    assert "If it is too long for them: n/a" in lines
    assert (
        lines[-1] == f"This is the plan of the gateway at http://127.0.0.1:{here.server.port}."
        if here.server
        else ""
    )
    assert here.tenant.key not in text
    assert server.requests == []


async def test_the_answer_for_programs_is_the_same(here: Here) -> None:
    found = await here.explained("--key", here.tenant.key, "--model", "m")
    assert [each["deployment"] for each in found["candidates"]] == ["m/a", "n/a"]
    assert found["caller"]["key_id"] == here.tenant.key_id
    assert found["gateway"].startswith("http://127.0.0.1:")
    assert (found["refusal"], found["asked"]) == (None, "m")
    by_id = await here.explained("--key", here.tenant.key_id, "--model", "m")
    assert by_id == found
    named = await here.explained("--org", "acme", "--team", "team", "--model", "m")
    assert (named["caller"]["team_id"], named["caller"]["key_id"]) == (here.tenant.team_id, None)


async def test_a_request_in_a_file_and_zones_count(here: Here, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}))
    found = await here.explained("--key", here.tenant.key, "--body", str(body), "--zone", "world")
    assert found["asked"] == "m"
    assert found["refusal"]["code"] == "permission_denied"
    text = await here.run("explain", "--key", here.tenant.key, "--body", str(body), "--zone", "x")
    assert "refused: 400 invalid_zone: There is no zone 'x' here." in text
    body.write_text('{"model": "m", "messages": "none"}')
    error = await here.run("explain", "--key", here.tenant.key, "--body", str(body), code=1)
    assert error == "llmgw-server: 'messages' must be an array.\n"


async def test_a_key_is_read_from_standard_input(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Input:
        def readline(self) -> str:
            return here.tenant.key + "\n"

    monkeypatch.setattr("sys.stdin", Input())
    found = await here.explained("--key", "-", "--model", "m")
    assert found["caller"]["key_id"] == here.tenant.key_id


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--model", "m"), "Who would call? Give either --key or --org"),
        (("--model", "m", "--key", "x", "--org", "y"), "Give either --key or --org"),
        (
            ("--model", "m", "--key", "x", "--team", "t"),
            "A team or a user is one of an organization; give that as well.",
        ),
        (("--key", "x"), "Which model? Give --model, or a --body that names one."),
        (("--key", "x", "--body", "absent.json"), "absent.json cannot be read: No such file"),
    ],
)
async def test_what_is_missing_is_said(here: Here, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in await here.run("explain", *words, code=1)


async def test_a_body_that_is_no_object_is_said(here: Here, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    words = ("explain", "--key", "x", "--body", str(tmp_path / "list.json"))
    assert "is no JSON object" in await here.run(*words, code=1)


async def test_without_a_gateway_it_is_planned_from_the_configuration_and_the_store(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = f"{{port: {free_port()}, admin_key: {ADMIN_KEY}}}"
    config = write(tmp_path, server, listener)
    async with opened(config, capsys, served=False) as here:
        await here.gateway.switches.off("deployment", "m/a", reason="it burns", actor="me")
        asked = ("explain", "--key", here.tenant.key, "--model", "m")
        text = await here.run(*asked)
        assert "m/a         switched off: it burns" in text
        last = text.splitlines()[-1]
        assert last.startswith("The gateway at http://127.0.0.1:")
        assert "does not answer" in last
        assert f"planned from {config} and the store" in last
        offline = await here.run(*asked, "--offline", "--json")
        found = json.loads(offline)
        assert (found["gateway"], found["why"]) == (None, "As asked, no gateway was asked.")
        assert [each["deployment"] for each in found["candidates"]] == ["n/a"]
        error = await here.run(*asked, "--url", "http://127.0.0.1:1", code=1)
        assert "The gateway at http://127.0.0.1:1 does not answer" in error
        body = tmp_path / "body.json"
        body.write_text('{"messages": 5}')
        assert "'messages' must be" in await here.run(*asked, "--body", str(body), code=1)
    assert server.requests == []
    assert not list(tmp_path.glob("llmgw-*"))


async def test_planning_leaves_the_gateway_s_journal_alone(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs beside a gateway that cannot be asked, and writes nothing of its own."""
    config = write(tmp_path, server, "{}")
    async with opened(config, capsys, served=False) as here:
        before = sorted(path.name for path in tmp_path.rglob("*"))
        text = await here.run("explain", "--key", here.tenant.key, "--model", "m")
        assert "has no server.admin_key, so no gateway can be asked." in text
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        assert (await Client(here.gateway, here.tenant.key).chat("m")).status == 200


async def test_a_gateway_is_found_behind_tls_and_on_a_unix_socket(
    tmp_path: Path,
    server: ModelServer,
    capsys: pytest.CaptureFixture[str],
    authority: Authority,
) -> None:
    certificate, key = authority.issue("server", "elsewhere.example")
    tls = f"tls: {{certificate: {certificate}, key: {key}}}"
    listeners = {
        "https://127.0.0.1:": f"{{port: {free_port()}, admin_key: {ADMIN_KEY}, {tls}}}",
        "unix:": f"{{port: 0, admin_key: {ADMIN_KEY}, admin: {{unix: admin.sock}}}}",
    }
    for number, (url, listener) in enumerate(listeners.items()):
        directory = tmp_path / str(number)
        directory.mkdir()
        config = write(directory, server, listener)
        async with opened(config, capsys) as here:
            found = await here.explained("--key", here.tenant.key, "--model", "m")
            assert found["gateway"].startswith(url)


async def test_a_port_that_the_gateway_chooses_cannot_be_known(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, server, f"{{port: 0, admin_key: {ADMIN_KEY}}}")
    async with opened(config, capsys) as here:
        assert here.server is not None
        url = f"http://127.0.0.1:{here.server.port}"
        asked = ("--key", here.tenant.key, "--model", "m")
        assert "give --url" in (await here.explained(*asked))["why"]
        assert (await here.explained(*asked, "--url", url))["gateway"] == url


async def test_the_deployments_show_how_they_are(here: Here, server: ModelServer) -> None:
    gateway = here.gateway
    client = Client(gateway, here.tenant.key)
    assert (await client.chat("m", stream=True)).status == 200
    assert (await client.chat("m")).status == 200
    await gateway.switches.off("model", "n", reason="it burns", actor="me")
    memory = gateway._foundation.memory
    one, two = gateway.catalog["m"].deployments
    memory.states[one.identity].load = EngineLoad(3, 4, 0.5, memory.clock())
    memory.put(two, Obstacle("probe", "not ready: loading", memory.clock() + 90))
    text = await here.run("deployments")
    titles, *lines = text.splitlines()
    assert titles.split()[:3] == ["DEPLOYMENT", "ZONE", "STATE"]
    assert lines[0].split()[:4] == ["m/a", "onprem", "healthy", "0"]
    assert lines[0].rstrip().endswith("3 running, 4 waiting, KV 50%  -")
    assert "not ready: loading (for 90 s more)" in lines[1]
    assert "switched off" in lines[2]
    rows = {row["deployment"]: row for row in json.loads(await here.run("deployments", "--json"))}
    assert rows["m/a"]["first_content"] > 0
    assert rows["m/a"]["complete"] > 0
    assert rows["m/a"]["load"]["waiting"] == 4
    assert rows["m/b"]["state"] == "not ready"
    assert rows["n/a"]["reason"] == "switched off: it burns"


async def test_it_is_said_when_nobody_would_be_tried(here: Here) -> None:
    for name in ("m", "n"):
        for deployment in here.gateway.catalog[name].deployments:
            await here.gateway.switches.off("deployment", deployment.id, reason="x", actor="me")
    text = await here.run("explain", "--key", here.tenant.key, "--model", "m")
    assert "Nobody would be tried now: the call waits for a slot where calls may, or fails." in text


async def test_without_a_gateway_only_what_is_switched_is_known(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, server, "{}")
    async with opened(config, capsys, served=False) as here:
        await here.gateway.switches.off("deployment", "m/a", reason="x", actor="me")
        rows = json.loads(await here.run("deployments", "--json"))
        assert {row["deployment"]: row["state"] for row in rows} == {
            "m/a": "switched off",
            "m/b": "unknown",
            "n/a": "unknown",
        }
