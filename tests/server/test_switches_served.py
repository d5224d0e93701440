"""`llmgw-server switch`, and the same over the admin API."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from llmgw_core.config.schema import ServerConfig
from llmgw_core.testing.installation import at
from llmgw_server.app import create_app
from llmgw_server.cli import main

from .conftest import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

    from .conftest import Running

KEY = "an-admin-key-of-24-bytes"


def test_a_deployment_is_switched_off_listed_and_switched_on(llmgw: Callable[..., str]) -> None:
    assert llmgw("switch", "list") == "Nothing is switched.\n"
    before = time.time()
    told = llmgw("switch", "off", "deployment", "smart/a", "--for", "2h", "--reason", "it burns")
    assert told.startswith("Deployment smart/a is switched off until 20")
    assert told.endswith("Z: it burns.\nA gateway that runs knows within 5 s.\n")
    [switch] = json.loads(llmgw("switch", "list", "--json"))
    assert (switch["kind"], switch["name"], switch["reason"]) == (
        "deployment",
        "smart/a",
        "it burns",
    )
    assert switch["actor"].startswith("cli")
    assert 7200 <= switch["expires_at"] - before < 7260
    line = llmgw("switch", "list").splitlines()[1]
    assert line.split()[:3] == ["deployment", "smart/a", "-"]
    told = llmgw("switch", "on", "deployment", "smart/a")
    assert told.startswith("Deployment smart/a is on again; it was switched off until")
    assert llmgw("switch", "list") == "Nothing is switched.\n"


def test_a_model_is_routed_to_another_and_back(llmgw: Callable[..., str]) -> None:
    told = llmgw("switch", "route", "smart=small", "--reason", "cheaper", "--cut")
    assert told.splitlines()[:2] == [
        "Model smart is routed to small: cheaper.",
        "It has no end: `llmgw-server switch on route smart` takes it back.",
    ]
    [switch] = json.loads(llmgw("switch", "list", "--json"))
    assert (switch["target"], switch["cut"]) == ("small", True)
    assert "routed away no more" in llmgw("switch", "on", "route", "smart")


def test_a_team_is_switched_by_its_name_and_listed_with_it(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme")
    llmgw("teams", "create", "research", "--org", "acme")
    told = llmgw("switch", "off", "team", "research", "--org", "acme", "--reason", "leaked key")
    assert "Team research is switched off: leaked key." in told
    assert "research" in llmgw("switch", "list")
    assert "Team research is on again" in llmgw("switch", "on", "team", "research")


def test_who_switches_a_plugin_off_is_told_what_that_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "llmgw.yaml"
    config.write_text("plugins: [{name: guard, path: guard.py}]\n")
    words = ["switch", "off", "plugin", "guard", "--reason", "x", "--config", str(config)]
    assert main(words) == 0
    assert "Calls pass WITHOUT the plugin guard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("off", "model", "smrt"), "There is no model 'smrt'; did you mean `smart`"),
        (("off", "deployment", "b"), "did you mean `smart/b`?"),
        (("off", "team", "nobody"), "There is no team 'nobody'."),
        (("route", "smart"), "'smart' is no route; write MODEL=OTHER."),
        (("route", "smart=smal"), "There is no model 'smal'; did you mean `small`"),
        (("off", "model", "smart", "--for", "2020-01-01"), "must lie in the future"),
    ],
)
def test_a_typo_is_refused_with_what_was_probably_meant(
    llmgw: Callable[..., str], fails: Callable[..., str], words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in fails("switch", *words, "--reason", "x")
    assert llmgw("switch", "list") == "Nothing is switched.\n"


def test_what_is_not_switched_is_not_switched_on(
    llmgw: Callable[..., str], fails: Callable[..., str]
) -> None:
    assert fails("switch", "on", "model", "smart") == "The model 'smart' is not switched."


@pytest.mark.usefixtures("llmgw")
@pytest.mark.parametrize(
    "words", [("off", "model", "smart"), ("off", "key", "x", "--reason", "x"), ()]
)
def test_without_a_reason_or_of_another_kind_the_command_line_is_wrong(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["switch", *words])
    assert caught.value.code == 2
    assert "usage: llmgw-server switch" in capsys.readouterr().err


class Served(NamedTuple):
    here: Installation
    server: Running

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        key: str = KEY,
        kind: str = "application/json",
    ) -> tuple[int, Any]:
        data = (
            b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        )
        head = (
            f"{method} /admin/v1{path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n"
            f"content-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        status, _, reply = await self.server.exchange(head.encode() + data)
        return status, json.loads(reply)


@pytest.fixture
async def served(installed: Install, server: ModelServer) -> AsyncIterator[Served]:
    here = await installed(
        {"m": [at(server)], "other": [at(server)]},
        server=ServerConfig(admin_key=KEY),
    )
    async with running(create_app(here.gateway), "uvicorn") as running_server:
        yield Served(here, running_server)


async def test_a_switch_over_http_is_in_force_when_the_reply_is_there(served: Served) -> None:
    wanted = {"kind": "deployment", "name": "m/a", "reason": "it burns"}
    status, switch = await served.ask("POST", "/switches", wanted)
    assert (status, switch["name"], switch["actor"]) == (200, "m/a", "admin API")
    assert (await served.here.client.chat("m")).status == 503
    assert await served.ask("GET", "/switches") == (200, {"data": [switch]})
    assert await served.ask("DELETE", "/switches/deployment/m/a") == (200, switch)
    assert (await served.here.client.chat("m")).status == 200
    [entry, _] = await served.here.gateway.tenancy.list_audit(limit=2)
    assert (entry.action, entry.actor) == ("switch_on", "admin API")


async def test_a_route_and_a_team_over_http(served: Served) -> None:
    route = {"kind": "route", "name": "m", "target": "other", "reason": "x"}
    assert (await served.ask("POST", "/switches", route))[0] == 200
    team = {"kind": "team", "name": "team", "organization": "acme", "reason": "x"}
    status, switch = await served.ask("POST", "/switches", team)
    assert (status, switch["label"]) == (200, "team")
    assert (await served.here.client.chat("m")).status == 403
    assert (await served.ask("DELETE", "/switches/team/team?organization=acme"))[0] == 200
    assert (await served.here.client.chat("m")).status == 200
    [record] = await served.here.records()
    assert (record.model, record.served_model) == ("m", "other")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "/switches", b"{", 400, "no valid JSON"),
        ("POST", "/switches", b"[" * 100_000, 400, "is not what this page takes"),
        ("POST", "/switches", {"kind": "key"}, 400, "Invalid enum value 'key' - at `$.kind`"),
        ("POST", "/switches", {"kind": "model", "name": "m"}, 400, "required field `reason`"),
        ("POST", "/switches", {"kind": "model", "name": "m", "reason": "x", "x": 1}, 400, "`x`"),
        ("POST", "/switches", {"kind": "model", "name": "n", "reason": "x"}, 404, "no model 'n'"),
        (
            "POST",
            "/switches",
            {"kind": "model", "name": "m", "reason": "x", "target": "other"},
            400,
            "Only a route has a target.",
        ),
        ("POST", "/switches", b" " * 1_100_000, 413, "too large"),
        ("DELETE", "/switches/key/m", None, 404, "A switch is one of deployment, model"),
        ("DELETE", "/switches/model/m", None, 404, "The model 'm' is not switched."),
    ],
)
async def test_what_cannot_be_done_over_http_is_said(
    served: Served, method: str, path: str, body: object, status: int, sentence: str
) -> None:
    found, reply = await served.ask(method, path, body)
    assert (found, sentence in reply["error"]["message"]) == (status, True), reply
    assert await served.here.gateway.switches.find_all() == []


async def test_another_media_type_and_another_key_are_refused(served: Served) -> None:
    wanted = {"kind": "model", "name": "m", "reason": "x"}
    status, reply = await served.ask("POST", "/switches", wanted, kind="text/plain")
    assert (status, reply["error"]["code"]) == (415, "unsupported_media_type")
    for method, path in (("POST", "/switches"), ("GET", "/switches"), ("DELETE", "/switches/a/b")):
        assert (await served.ask(method, path, wanted, key="wrong"))[0] == 401
    assert await served.here.gateway.switches.find_all() == []


async def test_another_method_hears_all_that_the_page_takes(served: Served) -> None:
    status, reply = await served.ask("PUT", "/switches")
    assert (status, reply["error"]["message"]) == (
        405,
        "This path is for GET, HEAD, POST requests.",
    )


async def test_a_store_that_is_down_is_said(served: Served) -> None:
    await served.here.gateway.store.aclose()
    for method, path, body in (
        ("GET", "/switches", None),
        ("POST", "/switches", {"kind": "model", "name": "m", "reason": "x"}),
        ("DELETE", "/switches/model/m", None),
    ):
        status, reply = await served.ask(method, path, body)
        assert (status, reply["error"]["message"]) == (503, "The database does not answer.")
    await served.here.gateway.store.open()


async def test_the_pages_describe_their_bodies_and_parameters(served: Served) -> None:
    raw = b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n"
    described = json.loads((await served.server.exchange(raw))[2])
    post = described["paths"]["/admin/v1/switches"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/SwitchRequest"}
    fields = described["components"]["schemas"]["SwitchRequest"]["properties"]
    assert {"kind", "name", "reason", "expires_at", "cut"} <= set(fields)
    delete = described["paths"]["/admin/v1/switches/{kind}/{name}"]["delete"]
    assert [(each["name"], each["in"]) for each in delete["parameters"]] == [
        ("kind", "path"),
        ("name", "path"),
        ("organization", "query"),
    ]
