"""Calls that plugins make in the course of another call: accounted, limited, and never around
themselves."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Call, Head, Subcall
from llmgw_core.domain.limits import Limits
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.hooks.subcalls import MAX_DEPTH, SubcallError
from llmgw_core.testing.client import MemorySink
from llmgw_core.testing.installation import at
from llmgw_core.testing.model_server import completion
from llmgw_core.testing.plugins import contexts_in
from llmgw_core.testing.tenants import create_tenant

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.testing.upstream import Peer, Scripted
    from llmgw_core.wire.request import RequestView

QUESTION = {"model": "guard", "messages": [{"role": "user", "content": "Is it safe?"}]}


class Asking:
    """Asks the model `guard` before every call; `ask` says how."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context
        self.hooks: list[str] = []
        self.replies: list[Any] = []

    async def ask(self, call: Call) -> Any:
        return await self.context.chat(call, QUESTION)

    @hookimpl
    def pre_auth(self) -> None:
        self.hooks.append("pre_auth")

    @hookimpl
    def authenticate(self) -> None:
        self.hooks.append("authenticate")

    @hookimpl
    def authorize(self, model: str) -> None:
        self.hooks.append(f"authorize {model}")

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        self.hooks.append("pre_route")
        self.replies.append(await self.ask(call))

    @hookimpl
    def post_process(self, reply: Reply) -> None:
        self.hooks.append("post_process")

    @hookimpl
    def open_stream(self) -> None:
        self.hooks.append("open_stream")


async def gateway_with(
    installed: Install,
    server: ModelServer,
    guard: Any,
    *plugins: tuple[str, type[Any]],
    **options: Any,
) -> Installation:
    return await installed({"m": [at(server)], "guard": [at(guard)]}, plugins=plugins, **options)


def instance(here: Installation, name: str = "asking") -> Any:
    [found] = [p.instance for p in here.gateway.host.plugins if p.name == name]
    return found


@pytest.fixture
async def guard(sibling: ModelServer) -> ModelServer:
    sibling.reply = msgspec.json.encode(completion("safe", input=20, output=1))
    return sibling


@pytest.mark.parametrize("stream", [False, True])
async def test_a_plugin_asks_a_model_and_its_call_is_on_the_books(
    installed: Install,
    server: ModelServer,
    guard: ModelServer,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO, "llmgw.subcalls")
    here = await gateway_with(installed, server, guard, ("asking", Asking))
    reply = await here.client.chat("m", stream=stream)
    assert reply.status == 200
    plugin = instance(here)
    assert plugin.hooks == [
        "pre_auth",
        "authenticate",
        "authorize m",
        "pre_route",
        *(["open_stream"] if stream else []),
        "post_process",
    ]
    [answer] = plugin.replies
    assert answer.text == "safe"
    inner, outer = await here.records()
    assert answer.record == inner
    assert (inner.model, inner.usage.input_tokens, inner.stream) == ("guard", 20, False)
    assert (inner.key_id, inner.organization_id) == (outer.key_id, outer.organization_id)
    assert (inner.parent, outer.parent) == (outer.call_id, None)
    assert inner.call_id == answer.request_id != outer.call_id
    [line] = [r.message for r in caplog.records if r.name == "llmgw.subcalls"]
    assert line == f"subcall: call={inner.call_id} parent={outer.call_id} plugin=asking status=200"
    traces = [each.requests[0].header(b"traceparent") or b"" for each in (server, guard)]
    trace = {traceparent[3:35] for traceparent in traces}
    assert len(trace) == 1


async def test_a_plugin_asks_for_embeddings(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    class Embedding(Asking):
        async def ask(self, call: Call) -> Any:
            return await self.context.embed(call, {"model": "e", "input": "text"})

    from llmgw_core.testing.installation import served_by

    models = {"m": [at(server)], "e": served_by(at(guard), kind="embedding")}
    here = await installed(models, plugins=[("asking", Embedding)])
    assert (await here.client.chat("m")).status == 200
    [answer] = instance(here).replies
    assert answer.vectors == [[0.5, -0.25]]
    assert [record.endpoint for record in await here.records()] == [
        "embeddings",
        "chat.completions",
    ]


async def test_a_stream_filter_may_ask_too(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    class Judge(Asking):
        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            pass

        @hookimpl
        def open_stream(self, call: Call) -> Any:  # type: ignore[override]
            plugin = self

            class Filter:
                def feed(self, event: Any) -> Any:
                    return event

                async def finish(self) -> None:
                    plugin.replies.append(await plugin.ask(call))

            return Filter()

    here = await gateway_with(installed, server, guard, ("asking", Judge))
    assert (await here.client.chat("m", stream=True)).body.endswith(b"[DONE]\n\n")
    assert instance(here).replies[0].text == "safe"
    inner, outer = await here.records()
    assert inner.parent == outer.call_id


async def test_other_plugins_see_the_call_and_their_own_calls_do_not_come_back(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    here = await gateway_with(installed, server, guard, ("one", Asking), ("two", Asking))
    assert (await here.client.chat("m")).status == 200
    one, two = instance(here, "one"), instance(here, "two")
    # The client's call; and the one that `two` makes of it, and of the one that `one` makes.
    assert one.hooks.count("pre_route") == 2
    assert two.hooks.count("pre_route") == 2
    records = await here.records()
    # Calls of plugins: one asks (and two within it), two asks (and one within it).
    assert len(records) == 5
    parents = {record.call_id: record.parent for record in records}
    [client] = [id for id, parent in parents.items() if parent is None]
    assert sorted(_depth(parents, id) for id in parents) == [0, 1, 1, 2, 2]
    assert client in parents.values()


def _depth(parents: dict[str, Any], id: str) -> int:
    parent = parents[id]
    return 0 if parent is None else 1 + _depth(parents, parent)


async def test_calls_of_plugins_are_nested_only_so_deep(
    installed: Install, server: ModelServer, guard: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    class Deep(Asking):
        async def ask(self, call: Call) -> Any:
            try:
                return await super().ask(call)
            except SubcallError as error:
                return error

    names = [f"p{number}" for number in range(MAX_DEPTH + 1)]

    class OnlyNext(Deep):
        """Each asks only within the call of the one before it."""

        @hookimpl
        async def pre_route(self, request: RequestView, call: Call) -> None:
            depth = call.subcall.depth if call.subcall else 0
            if self.context.name == f"p{depth}":
                self.replies.append(await self.ask(call))

    here = await gateway_with(installed, server, guard, *((name, OnlyNext) for name in names))
    assert (await here.client.chat("m")).status == 200
    [last] = instance(here, names[-1]).replies
    assert isinstance(last, SubcallError)
    assert (last.error.status, last.error.code) == (508, "subcalls_too_deep")
    # The plugin may raise it for the client, who must not learn which plugins there are.
    assert last.error.message == "Calls of extensions of the gateway may be 4 deep."
    assert "the plugin p4 asks too deep inside of calls of: p0, p1, p2, p3" in caplog.text
    assert len(await here.records()) == MAX_DEPTH + 1


async def test_limits_of_the_caller_apply_and_what_fails_is_not_for_the_client(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    options: Any = {"tenant": {"key_limits": Limits(rpm=1)}}
    here = await gateway_with(installed, server, guard, ("asking", Asking), **options)
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (500, "plugin_error")
    assert [record.error_code for record in await here.records()] == ["plugin_error"]

    class Passing(Asking):
        async def ask(self, call: Call) -> Any:
            try:
                return await super().ask(call)
            except SubcallError as failed:
                raise failed.error from None

    here = await gateway_with(installed, server, guard, ("asking", Passing), **options)
    reply = await here.client.chat("m")
    assert (reply.status, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_an_open_plugin_does_without_the_model_that_it_cannot_ask(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    guard.status = 500
    sections = [PluginConfig("asking", on_error="open")]
    here = await gateway_with(installed, server, guard, ("asking", Asking), sections=sections)
    assert (await here.client.chat("m")).status == 200
    failed, done = await here.records()
    assert (failed.status, done.status) == ("failed", "completed")


async def test_a_reply_that_cannot_be_read_is_a_failure_of_the_call(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    class Garbling:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def post_process(self, reply: Reply, call: Call) -> Reply | None:
            return Reply(b"[]", None) if call.subcall else None

    class Telling(Asking):
        async def ask(self, call: Call) -> Any:
            with pytest.raises(SubcallError) as raised:
                await super().ask(call)
            return raised.value.error

    plugins = (("asking", Telling), ("garbling", Garbling))
    here = await gateway_with(installed, server, guard, *plugins)
    assert (await here.client.chat("m")).status == 200
    [error] = instance(here).replies
    assert (error.status, error.message) == (502, "The model's reply cannot be read.")
    assert error.request_id == (await here.records())[0].call_id


async def test_a_plugin_may_call_as_somebody_else(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    level = Level("organization", "org-guard", models=("*",))
    own = Principal((level,), "org-guard")

    class Own(Asking):
        async def ask(self, call: Call) -> Any:
            return await self.context.chat(call, QUESTION, principal=own)

    here = await gateway_with(installed, server, guard, ("asking", Own))
    assert (await here.client.chat("m")).status == 200
    inner, outer = await here.records()
    assert (inner.organization_id, inner.key_id) == ("org-guard", None)
    assert outer.organization_id == here.tenant.organization_id


async def test_a_plugin_may_call_with_a_key_of_its_own(
    installed: Install, server: ModelServer, guard: ModelServer
) -> None:
    keys: list[str] = []

    class Keyed(Asking):
        async def ask(self, call: Call) -> Any:
            return await self.context.chat(call, QUESTION, key=keys[0])

    here = await gateway_with(installed, server, guard, ("asking", Keyed))
    other = await create_tenant(here.gateway.store, "guards")
    keys.append(other.key)
    assert (await here.client.chat("m")).status == 200
    inner, outer = await here.records()
    assert inner.organization_id == other.organization_id != outer.organization_id
    keys[0] = "llmgw-nonsense"
    assert (await here.client.chat("m")).status == 500


async def test_what_cannot_be_asked_is_said_at_once(tmp_path: Path) -> None:
    context = contexts_in(tmp_path)("p")
    call = Call("id", "chat.completions", Head("POST", "/", ()), 0.0, 0)
    with pytest.raises(RuntimeError, match="from the hook `startup` on"):
        await context.chat(call, QUESTION)

    nowhere: Any = object()  # not called
    context.bind_calls(nowhere)
    with pytest.raises(TypeError, match="Nobody is authenticated yet"):
        await context.chat(call, QUESTION)
    with pytest.raises(TypeError, match="a principal or a key, not both"):
        await context.chat(call, QUESTION, principal=Principal((), "o"), key="k")
    with pytest.raises(TypeError, match="leave `stream` out"):
        await context.chat(call, {**QUESTION, "stream": True}, key="k")
    call.subcall = Subcall("p", frozenset(("a", "b")), MAX_DEPTH)
    with pytest.raises(SubcallError, match="may be 4 deep"):
        await context.embed(call, {"model": "m", "input": ""}, key="k")


@pytest.mark.parametrize("way", ["leaves", "is cancelled", "is too slow"])
async def test_what_ends_the_outer_call_ends_the_inner_one(
    installed: Install, scripted: Scripted, server: ModelServer, way: str
) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()
        gone.set()

    stuck = await scripted(script)
    sections = [PluginConfig("asking", timeout=0.1 if way == "is too slow" else 60)]
    here = await gateway_with(installed, server, stuck, ("asking", Asking), sections=sections)
    sink = MemorySink()
    call = asyncio.create_task(here.client.chat("m", sink=sink))
    await asked.wait()
    if way == "leaves":
        sink.leave()
    elif way == "is cancelled":
        call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await gone.wait()
    if way == "is too slow":
        assert (sink.status, sink.json()["error"]["code"]) == (500, "plugin_error")
    inner, outer = await here.records()
    assert (inner.model, outer.model) == ("guard", "m")
    assert inner.parent == outer.call_id
    assert inner.charge > 0
    assert outer.charge == 0
    assert server.requests == []
