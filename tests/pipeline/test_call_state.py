"""What a plugin keeps for one call: its own, in every hook of it, and gone with the call."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from llmgw_core.domain.call import Call, Head
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.installation import at
from llmgw_core.testing.plugins import contexts_in

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.reply import Reply
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer


class Notes:
    """Something of a plugin's own."""

    def __init__(self) -> None:
        self.seen: list[str] = []


class Keeping:
    """Notes the hooks of each call in the call."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context
        self.kept: list[weakref.ref[Notes]] = []
        self.seen: list[list[str]] = []

    @hookimpl
    def pre_auth(self, call: Call) -> None:
        notes = self.context.state(call, Notes)
        notes.seen.append(f"pre_auth of {self.context.name}")
        self.kept.append(weakref.ref(notes))

    @hookimpl
    async def post_process(self, reply: Reply, call: Call) -> None:
        notes = self.context.state(call, Notes)
        notes.seen.append("post_process")
        self.seen.append(notes.seen)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_plugin_keeps_for_a_call_is_its_own_and_goes_with_the_call(
    installed: Install, server: ModelServer, stream: bool
) -> None:
    here = await installed({"m": [at(server)]}, plugins=[("one", Keeping), ("two", Keeping)])
    gc.collect()
    gc.disable()  # released by itself, not by the garbage collector
    try:
        for _ in range(3):
            assert (await here.client.chat("m", stream=stream)).status == 200
        for name in ("one", "two"):
            [plugin] = [p.instance for p in here.gateway.host.plugins if p.name == name]
            assert plugin.seen == [[f"pre_auth of {name}", "post_process"]] * 3
            assert [notes() for notes in plugin.kept] == [None] * 3
    finally:
        gc.enable()


def test_without_a_kind_the_state_is_a_dictionary(tmp_path: Path) -> None:
    call = Call("id", "chat.completions", Head("POST", "/", ()), 0.0, 0)
    one, two = (contexts_in(tmp_path)(name) for name in ("one", "two"))
    one.state(call)["a"] = 1
    assert one.state(call) == {"a": 1}
    assert two.state(call) == {}
    assert call.state == {"one": {"a": 1}, "two": {}}
