"""`llmgw-server brakes` and `keys lift`, the admin pages and metrics of the brake."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import ServerConfig
from llmgw_core.domain.brake import Brake
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import ModelServer, completion
from llmgw_server.app import create_app
from llmgw_server.cli import main

from .conftest import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.installation import Install

ADMIN = "an-admin-key-of-24-bytes"


@pytest.fixture
def tenant(llmgw: Callable[..., str]) -> None:
    llmgw("orgs", "create", "acme", "--models", "*")
    llmgw("teams", "create", "research", "--org", "acme")
    llmgw("keys", "create", "--team", "research", "--name", "ci")


@pytest.mark.usefixtures("tenant")
def test_bounds_are_set_listed_lifted_and_removed(llmgw: Callable[..., str]) -> None:
    assert llmgw("brakes", "list").startswith("No level has a brake of its own")
    said = llmgw("brakes", "set", "team", "research", "--session-calls", "50", "--key-money", "2.5")
    assert said.splitlines() == [
        "The brake of team research: session-calls 50, key-money 2.5.",
        "A gateway that runs knows within 5 s.",
    ]
    words = ["--velocity-floor", "1", "--velocity-factor", "4", "--shadow", "velocity-floor"]
    said = llmgw("brakes", "set", "key", "ci", *words)
    assert "velocity-floor 1 (shadow), velocity-factor 4." in said
    before = time.time()
    assert "refuses nothing until 20" in llmgw("keys", "lift", "ci")
    found = {each["level"]: each["brake"] for each in json.loads(llmgw("brakes", "list", "--json"))}
    assert (found["team"]["session_calls"], found["team"]["key_money"]) == (50, 2_500_000_000)
    assert 3600 <= found["key"]["lifted_until"] - before < 3660
    titles, *lines = llmgw("brakes", "list").splitlines()
    assert titles.split()[:4] == ["LEVEL", "NAME", "ID", "BOUNDS"]
    assert [line.split()[:2] for line in lines] == [["team", "research"], ["key", "ci"]]
    assert "refuses as before" in llmgw("keys", "lift", "ci", "--for", "0")
    said = llmgw("brakes", "set", "team", "research", "--session-calls", "none")
    assert said.startswith("The brake of team research: key-money 2.5.")
    llmgw("brakes", "set", "key", "ci", "--shadow", "none")
    llmgw("brakes", "remove", "team", "research")
    [left] = json.loads(llmgw("brakes", "list", "--json"))
    assert left["brake"]["shadow"] == []


@pytest.mark.usefixtures("tenant")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["brakes", "set", "team", "research", "--key-calls", "0"], "is a whole number from 1"),
        (["brakes", "set", "team", "research", "--shadow", "key-calls"], "which is not set"),
        (["brakes", "set", "team", "nobody", "--key-calls", "1"], "There is no team 'nobody'"),
        (["brakes", "set", "key", "ci"], "Nothing to change was given"),
        (["brakes", "remove", "key", "ci"], "has no brake of its own"),
        (["keys", "lift", "ci", "--for", "100000"], "lifted for 0 to 86400"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(
    fails: Callable[..., str], arguments: list[str], message: str
) -> None:
    assert message in fails(*arguments)


@pytest.mark.parametrize("words", [["--key-calls", "many"], ["--key-money", "x"]])
def test_what_is_written_wrong_is_a_wrong_command_line(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["brakes", "set", "key", "ci", *words])
    assert caught.value.code == 2


async def test_over_the_admin_api_a_key_is_lifted_at_once(installed: Install) -> None:
    async with ModelServer() as upstream:
        upstream.reply = msgspec.json.encode(completion(input=9, output=3))
        here = await installed(
            {"m": [at(upstream)]},
            server=ServerConfig(admin_key=ADMIN),
            tenant={"key_brake": Brake(velocity_floor=30_000)},
        )
        statuses = [(await here.client.chat("m")).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        async with running(create_app(here.gateway), "uvicorn") as server:
            key = here.tenant.key_id

            async def admin(method: str, path: str, body: Any = None) -> tuple[int, Any]:
                data = b"" if body is None else msgspec.json.encode(body)
                head = (
                    f"{method} /admin/v1{path} HTTP/1.1\r\nhost: a\r\n"
                    f"authorization: Bearer {ADMIN}\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(data)}\r\n\r\n"
                )
                status, _, reply = await server.exchange(head.encode() + data)
                return status, json.loads(reply)

            status, told = await admin("GET", "/brakes")
            assert (status, [each["id"] for each in told["data"]]) == (200, [key])
            assert told["data"][0]["recent"] == 30_000
            status, told = await admin("POST", f"/keys/{key}/lift", {})
            assert (status, told["id"]) == (200, key)
            assert (await here.client.chat("m")).status == 200
            status, _ = await admin("POST", f"/keys/{key}/lift", {"seconds": -1})
            assert status == 400
            status, _ = await admin("POST", "/keys/nobody/lift", {})
            assert status == 404
