"""Preview, active, deprecated, retired: what clients are told, on every answer."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.life import Life
from llmgw_core.domain.limits import Limits
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at, leading_to, served_by

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

SINCE, UNTIL = dt.date(2026, 11, 1), dt.date(2027, 3, 1)
DEPRECATED = Life("deprecated", SINCE, UNTIL, "new", "https://docs.example/old")
ANNOUNCED = {
    "deprecation": "@1793491200",
    "sunset": "Mon, 01 Mar 2027 00:00:00 GMT",
    "link": (
        '</v1/models/new>; rel="successor-version",'
        ' <https://docs.example/old>; rel="deprecation"; type="text/html"'
    ),
}


@pytest.fixture
async def here(installed: Install, server: ModelServer) -> Installation:
    return await installed(
        {
            "old": served_by(at(server), life=DEPRECATED, limits=Limits(rpm=3)),
            "new": [at(server)],
            "next": served_by(at(server), life=Life("preview")),
            "gone": served_by(life=Life("retired", SINCE, UNTIL, "new")),
            "still": served_by(
                at(server), fallbacks=("new",), life=Life("retired", successor="chat")
            ),
        },
        aliases={
            "chat": leading_to("old"),
            "former": leading_to("new", life=Life("deprecated", SINCE, successor="chat")),
            "away": leading_to("new", life=Life("retired")),
        },
    )


def told(sink: MemorySink) -> dict[str, str]:
    return {name: sink.headers[name] for name in ANNOUNCED if name in sink.headers}


async def test_every_answer_about_a_deprecated_model_says_so(
    here: Installation, server: ModelServer
) -> None:
    replies = [await here.client.chat("old"), await here.client.chat("old", stream=True)]
    server.status = 400
    replies += [await here.client.chat("old"), await here.client.chat("old")]
    assert [reply.status for reply in replies] == [200, 200, 400, 429]
    assert [told(reply) for reply in replies] == [ANNOUNCED] * 4
    assert told(await here.client.get("/v1/models/old")) == ANNOUNCED


class LineSink(MemorySink):
    """A sink that takes the head of a reply as lines, as a server's may."""

    def start_lines(self, status: int, lines: bytes) -> None:
        self.status = status
        fields = [line.partition(b": ") for line in lines.splitlines()]
        self.headers = {name.decode(): value.decode() for name, _, value in fields}


async def test_servers_that_take_lines_are_told_the_same(here: Installation) -> None:
    reply = await here.client.chat("old", sink=LineSink())
    assert (reply.status, told(reply)) == (200, ANNOUNCED)
    assert "deprecation" not in (await here.client.chat("new", sink=LineSink())).headers


async def test_it_is_the_name_that_was_asked_for_that_counts(here: Installation) -> None:
    """An alias on a deprecated model is nobody's problem but the operator's."""
    assert told(await here.client.chat("chat")) == {}
    assert told(await here.client.chat("former")) == {
        "deprecation": "@1793491200",
        "link": '</v1/models/chat>; rel="successor-version"',
    }


async def test_a_retired_model_is_404_and_names_its_successor(
    here: Installation, server: ModelServer
) -> None:
    for name, sentence in (
        ("gone", "The model 'gone' has been retired. Use 'new' instead."),
        ("still", "The model 'still' has been retired. Use 'chat' instead."),
        ("away", "The model 'away' has been retired."),
    ):
        for reply in (
            await here.client.chat(name),
            await here.client.chat(name, stream=True),
            await here.client.get(f"/v1/models/{name}"),
        ):
            error = reply.json()["error"]
            assert (reply.status, error["code"], error["param"]) == (404, "model_retired", "model")
            assert error["message"] == sentence
    gone = await here.client.chat("gone")
    assert told(gone)["link"] == '</v1/models/new>; rel="successor-version"'
    assert told(gone)["deprecation"] == ANNOUNCED["deprecation"]
    assert server.accepted == 0
    assert await here.records() == []


async def test_who_may_not_use_a_retired_model_learns_nothing_of_it(here: Installation) -> None:
    other = await here.another("other", models=["new"])
    assert (await other.chat("gone")).json()["error"]["code"] == "model_not_found"
    assert (await other.get("/v1/models/gone")).json()["error"]["code"] == "model_not_found"


async def test_a_successor_that_the_caller_may_not_use_is_not_named(here: Installation) -> None:
    narrow = await here.another("narrow", models=["gone"])
    reply = await narrow.chat("gone")
    assert reply.json()["error"]["message"] == "The model 'gone' has been retired."
    assert "link" not in reply.headers


async def test_nor_is_that_of_a_deprecated_model(here: Installation) -> None:
    narrow = await here.another("narrow", models=["old"])
    for reply in (
        await narrow.chat("old"),
        await narrow.chat("old", sink=LineSink()),
        await narrow.get("/v1/models/old"),
    ):
        link = told(reply)["link"]
        assert (reply.status, link) == (
            200,
            '<https://docs.example/old>; rel="deprecation"; type="text/html"',
        )
    assert "successor" not in (await narrow.get("/v1/models/old")).json()
    [listed] = (await narrow.get("/v1/models")).json()["data"]
    assert "successor" not in listed
    assert listed["state"] == "deprecated"


async def test_the_list_of_models_says_what_is_announced(here: Installation) -> None:
    listed = {one["id"]: one for one in (await here.client.get("/v1/models")).json()["data"]}
    assert set(listed) == {"old", "new", "next", "chat", "former"}
    common = {"object": "model", "created": 0, "owned_by": "llmgw"}
    assert listed["old"] == {
        "id": "old",
        **common,
        "state": "deprecated",
        "deprecated": "2026-11-01",
        "sunset": "2027-03-01",
        "successor": "new",
        "link": "https://docs.example/old",
    }
    assert listed["next"] == {"id": "next", **common, "state": "preview"}
    assert (await here.client.get("/v1/models/former")).json()["successor"] == "chat"
