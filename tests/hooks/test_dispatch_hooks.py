"""How hooks are called: order, arguments, results, failures."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.access import Principal
from llmgw_core.domain.call import Call, Head
from llmgw_core.domain.errors import GatewayError, invalid_api_key
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.host import Answer
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.plugins import DenyModel, Recorder, authenticator, host_of
from llmgw_core.wire.request import RequestView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.hooks.host import PluginHost

MESSAGE = "The request could not be processed because an extension of the gateway failed."


def making(**hooks: Callable[..., Any]) -> type[Any]:
    """A plugin class from functions by hook name (their first argument is `self`)."""

    def init(self: Any, config: Any, context: Any) -> None:
        self.context = context

    body = {name: hookimpl(function) for name, function in hooks.items()}
    return type("Plugin", (), {"__init__": init, **body})


def request_of(model: str = "m") -> RequestView:
    raw = {"model": msgspec.Raw(f'"{model}"'.encode()), "messages": msgspec.Raw(b"[1]")}
    return RequestView(raw, "chat.completions")


REPLY = Reply(b"", None)


def appending(suffix: str) -> type[Any]:
    async def slow(self: Any, head: Head, call: Call) -> Head:
        await asyncio.sleep(0)
        return Head(head.method + suffix, head.path, head.headers)

    def post_process(self: Any, reply: Reply) -> Reply:
        return Reply(reply.body + suffix.encode(), None)

    return making(pre_auth=slow, post_process=post_process)


async def test_an_unused_hook_is_an_empty_tuple(tmp_path: Path, head: Head, call: Call) -> None:
    host = host_of(tmp_path)
    request = request_of()
    for name in ("pre_auth", "authenticate", "authorize", "pre_route", "post_process", "on_usage"):
        assert getattr(host, name) == ()
    assert await host.run_pre_auth(head, call) is head
    assert await host.run_authenticate(head, call) is None
    assert host.run_authorize(call, "m") is None
    assert await host.run_pre_route(request, call) is request
    assert await host.run_post_process(REPLY, call) is REPLY
    assert host.describe() == []
    assert (host.backends, host.needs, host.failures, host.dropped) == ({}, frozenset(), {}, {})


async def test_folds_run_in_order_and_post_process_in_reverse(
    tmp_path: Path, head: Head, call: Call
) -> None:
    host = host_of(tmp_path, ("a", appending("a")), ("b", appending("b")), ("c", appending("c")))
    assert (await host.run_pre_auth(head, call)).method == "POSTabc"
    assert (await host.run_post_process(REPLY, call)).body == b"cba"


async def test_none_leaves_the_value_unchanged(tmp_path: Path, head: Head, call: Call) -> None:
    host = host_of(tmp_path, ("a", Recorder), ("b", appending("b")), ("c", Recorder))
    assert (await host.run_pre_auth(head, call)).method == "POSTb"
    request = request_of()
    assert await host.run_pre_route(request, call) is request
    assert host.run_authorize(call, "m") is None
    assert await host.run_authenticate(head, call) is None


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("names", ["", "head", "call", "head,call", "call,head"])
async def test_implementations_take_any_of_the_arguments(
    tmp_path: Path, head: Head, call: Call, names: str, coroutine: bool
) -> None:
    seen: list[Any] = []
    prefix = "async " if coroutine else ""
    space: dict[str, Any] = {"seen": seen}
    source = f"{prefix}def pre_auth(self, {names}):\n    seen.extend([{names}])\n"
    exec(source, space)
    host = host_of(tmp_path, ("a", making(pre_auth=space["pre_auth"])))
    await host.run_pre_auth(head, call)
    values = {"head": head, "call": call}
    assert seen == [values[name] for name in names.split(",") if name]
    assert host.pre_auth[0].arguments == tuple(name for name in names.split(",") if name)


async def test_a_plain_function_may_return_an_awaitable(
    tmp_path: Path, head: Head, call: Call
) -> None:
    async def later(head: Head) -> Head:
        await asyncio.sleep(0)
        return Head("LATER", head.path, head.headers)

    host = host_of(tmp_path, ("a", making(pre_auth=lambda self, head: later(head))))
    assert (await host.run_pre_auth(head, call)).method == "LATER"


async def test_the_first_answer_authenticates_and_the_rest_is_not_asked(
    tmp_path: Path, head: Head, call: Call
) -> None:
    known = Principal((), "o")
    asked: list[str] = []

    def noting(self: Any) -> None:
        asked.append(self.context.name)

    host = host_of(
        tmp_path,
        ("a", making(authenticate=noting)),
        ("b", authenticator(known)),
        ("c", making(authenticate=noting)),
    )
    assert await host.run_authenticate(head, call) is None
    assert asked == ["a", "c"]
    test_head = Head("GET", "/", [(b"x-test-principal", b"")])
    assert await host.run_authenticate(test_head, call) is known
    assert asked == ["a", "c", "a"]


async def test_a_reply_from_pre_route_ends_the_fold(tmp_path: Path, call: Call) -> None:
    other = request_of("other")
    answers = [other, None, REPLY, request_of("never")]

    def plugin(answer: Any) -> type[Any]:
        async def pre_route(self: Any, request: RequestView) -> Any:
            seen.append(request)
            return answer

        return making(pre_route=pre_route)

    seen: list[Any] = []
    host = host_of(tmp_path, *((f"p{n}", plugin(answer)) for n, answer in enumerate(answers)))
    request = request_of()
    assert await host.run_pre_route(request, call) == Answer(REPLY, ())
    assert seen == [request, other, other]


async def test_a_gateway_error_of_a_plugin_passes_unchanged(
    tmp_path: Path, head: Head, call: Call
) -> None:
    error = invalid_api_key()

    async def refuse(self: Any) -> None:
        raise error

    config = PluginConfig("a", on_error="open")
    plugin = making(authenticate=refuse, pre_auth=refuse, pre_route=refuse, post_process=refuse)
    host = host_of(tmp_path, ("a", plugin), configs=[config])
    for run in (
        host.run_authenticate(head, call),
        host.run_pre_auth(head, call),
        host.run_pre_route(request_of(), call),
        host.run_post_process(REPLY, call),
    ):
        with pytest.raises(GatewayError) as caught:
            await run
        assert caught.value is error
    assert host.failures == {}


def failing(self: Any) -> None:
    raise ValueError("internal detail")


async def never(self: Any) -> None:
    await asyncio.Event().wait()


def wrong(self: Any) -> Any:
    return 7


async def calls_of(host: PluginHost, head: Head, call: Call) -> list[Any]:
    request = request_of()
    results: list[Any] = []
    for run, unchanged in (
        (host.run_pre_auth(head, call), head),
        (host.run_authenticate(head, call), None),
        (host.run_pre_route(request, call), request),
        (host.run_post_process(REPLY, call), REPLY),
    ):
        try:
            results.append(await run is unchanged)
        except GatewayError as error:
            results.append((error.status, error.code, error.message))
    return results


HOOKS = ("pre_auth", "authenticate", "pre_route", "post_process")


@pytest.mark.parametrize("hook", [failing, never, wrong])
async def test_a_failing_hook_ends_the_call_and_says_nothing_about_it(
    tmp_path: Path,
    head: Head,
    call: Call,
    hook: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugin = making(**dict.fromkeys(HOOKS, hook))
    host = host_of(tmp_path, ("bad", plugin), configs=[PluginConfig("bad", timeout=0.01)])
    assert await calls_of(host, head, call) == [(500, "plugin_error", MESSAGE)] * 4
    assert host.failures == {("bad", name): 1 for name in HOOKS}
    assert [record.getMessage() for record in caplog.records] == [
        f"Plugin bad failed in {name}." for name in HOOKS
    ]
    assert all(record.exc_info for record in caplog.records)
    row = host.describe()[0]
    assert (row.calls, row.failures) == (4, 4)


@pytest.mark.parametrize("hook", [failing, never, wrong])
async def test_an_open_plugin_that_fails_lets_the_call_go_on_unchanged(
    tmp_path: Path, head: Head, call: Call, hook: Callable[..., Any]
) -> None:
    plugin = making(**dict.fromkeys(HOOKS, hook))
    config = PluginConfig("bad", timeout=0.01, on_error="open")
    host = host_of(tmp_path, ("bad", plugin), ("good", appending("!")), configs=[config])
    assert (await host.run_pre_auth(head, call)).method == "POST!"
    assert await host.run_authenticate(head, call) is None
    request = request_of()
    assert await host.run_pre_route(request, call) is request
    assert (await host.run_post_process(REPLY, call)).body == b"!"
    assert host.failures == {("bad", name): 1 for name in HOOKS}


async def test_cancellation_passes_through_a_hook(tmp_path: Path, head: Head, call: Call) -> None:
    entered = asyncio.Event()

    async def waiting(self: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    config = PluginConfig("a", on_error="open")
    host = host_of(tmp_path, ("a", making(pre_auth=waiting)), configs=[config])
    task = asyncio.ensure_future(host.run_pre_auth(head, call))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert host.failures == {}


def test_any_denial_wins(tmp_path: Path, call: Call) -> None:
    host = host_of(
        tmp_path,
        ("r", Recorder),
        ("d", DenyModel),
        ("e", making(authorize=lambda self, model: "" if model == "empty" else None)),
        configs=[PluginConfig("d", {"model": "closed"})],
    )
    assert host.run_authorize(call, "closed") == "This model is closed."
    assert host.run_authorize(call, "open") is None
    assert host.run_authorize(call, "empty") == "This request is not allowed."


@pytest.mark.parametrize("hook", [failing, wrong, lambda self: True])
def test_authorisation_that_fails_denies_even_when_the_plugin_is_open(
    tmp_path: Path, call: Call, hook: Callable[..., Any]
) -> None:
    config = PluginConfig("a", on_error="open")
    host = host_of(tmp_path, ("a", making(authorize=hook)), configs=[config])
    assert host.run_authorize(call, "m") == MESSAGE
    assert host.failures == {("a", "authorize"): 1}


def test_a_gateway_error_from_authorize_denies_with_its_text(tmp_path: Path, call: Call) -> None:
    def refuse(self: Any) -> None:
        raise GatewayError(403, "x", "Not on Sundays.")

    host = host_of(tmp_path, ("a", making(authorize=refuse)))
    assert host.run_authorize(call, "m") == "Not on Sundays."
    assert host.failures == {}


async def test_two_hosts_know_nothing_of_each_other(tmp_path: Path, head: Head, call: Call) -> None:
    one = host_of(tmp_path, ("a", appending("1")))
    two = host_of(tmp_path, ("a", appending("2")), ("b", appending("3")))
    assert (await one.run_pre_auth(head, call)).method == "POST1"
    assert (await two.run_pre_auth(head, call)).method == "POST23"
    assert (one.describe()[0].calls, two.describe()[0].calls) == (1, 1)


def test_the_border_logs_under_its_own_logger(
    tmp_path: Path, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    host_of(tmp_path, ("a", making(authorize=failing))).run_authorize(call, "m")
    assert caplog.records[0].name == "llmgw_core.hooks.foreign"
    assert caplog.records[0].levelno == logging.ERROR


async def test_functions_decorated_by_plugins_keep_their_arguments(
    tmp_path: Path, head: Head, call: Call
) -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    async def pre_auth(self: Any, call: Call) -> Head:
        return Head(call.id, "/", [])

    host = host_of(tmp_path, ("a", making(pre_auth=logged(pre_auth))))
    assert (await host.run_pre_auth(head, call)).method == "id"
