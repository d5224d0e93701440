"""The guardrail of the how-to guards: streams and complete replies, with and without a judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import DONE, chat_events, completion

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


def section(repository: Path, **config: Any) -> PluginConfig:
    return PluginConfig("guard", config, path=str(repository / "examples" / "guard.py"))


def test_the_how_to_shows_the_guard_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "how-to" / "guard-streams.md").read_text(encoding="utf-8")
    shown = (repository / "examples" / "guard.py").read_text(encoding="utf-8")
    assert f'```python title="guard.py"\n{shown}```\n' in page


@pytest.mark.parametrize("stream", [False, True])
async def test_words_are_masked_wherever_the_upstream_cuts_them(
    repository: Path, installed: Install, server: ModelServer, stream: bool
) -> None:
    server.events = chat_events(["The pass", "word is", " Sword", "fish", "."])
    server.reply = msgspec.json.encode(completion("The password is Swordfish."))
    words = ["password", "swordfish"]
    here = await installed({"m": [at(server)]}, sections=[section(repository, words=words)])
    reply = await here.client.chat("m", stream=stream)
    if stream:
        chunks = [each for each in reply.chunks() if each["choices"]]
        text = "".join(each["choices"][0]["delta"].get("content", "") for each in chunks)
        assert reply.body.endswith(DONE)
        assert len(chunks) > 3, "it is still a stream"
    else:
        text = reply.json()["choices"][0]["message"]["content"]
    assert text == "The ******** is *********."
    [plugin] = [each for each in here.gateway.host.plugins if each.name == "guard"]
    assert plugin.context.metrics.counters["masked_total"] == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("verdict", ["Yes.", "No!", ""])
async def test_a_judge_is_asked_before_anything_leaves(
    repository: Path,
    installed: Install,
    server: ModelServer,
    sibling: ModelServer,
    *,
    verdict: str,
    stream: bool,
) -> None:
    sibling.reply = msgspec.json.encode(completion(verdict))
    if not verdict:
        sibling.status = 500
    config = section(repository, words=["there"], judge="small-model")
    models = {"m": [at(server)], "small-model": [at(sibling)]}
    here = await installed(models, sections=[config])
    reply = await here.client.chat("m", stream=stream)
    assert "Hello *****" in sibling.bodies[0]["messages"][0]["content"]
    if verdict == "Yes.":
        assert b"*****" in reply.body
    else:
        assert (reply.status, reply.json()["error"]["code"]) == (400, "guardrail")
    inner, outer = await here.records()
    assert inner.parent == outer.call_id
    assert outer.charge > 0
