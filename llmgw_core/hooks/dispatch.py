"""The loops that call compiled hooks: fold, first, any. No loop is entered for an empty tuple if
the caller looks first, and none allocates more than a hook needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.reply import Reply
from llmgw_core.hooks.steps import bounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Head
    from llmgw_core.hooks.compile import CompiledHook
    from llmgw_core.wire.request import RequestView

T = TypeVar("T")
P = TypeVar("P", bound="_OfPlugin")

Hooks = tuple["CompiledHook", ...]


class _OfPlugin(Protocol):
    @property
    def plugin(self) -> str: ...


_DENIED = "This request is not allowed."


def applying(hooks: tuple[P, ...], call: Call) -> tuple[P, ...]:
    """Those of `hooks` that are run in `call`: a plugin is not asked about calls of its own."""
    subcall = call.subcall
    if subcall is None:
        return hooks
    return tuple(hook for hook in hooks if hook.plugin not in subcall.muted)


async def invoke(hook: CompiledHook, *arguments: Any) -> Any:
    """The checked result of one implementation; None also when it failed and may."""
    return await measured(hook, hook.function, arguments, hook.read)


async def measured(
    hook: CompiledHook,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    read: Callable[[Any], T],
) -> T | None:
    """What `read` makes of the result of `function`, a part of `hook`'s implementation, under its
    policy and timeout; None when it failed and may.

    A plain function is measured, and neither awaited nor timed unless it runs in a thread.

    A cancellation that is not ours (the plugin awaited something that was cancelled) is its
    failure, so that it cannot end the task that it runs in."""
    clock = hook.clock
    began = clock()
    try:
        with hook:
            if hook.threads is not None:
                result = await bounded(hook, hook.threads.run(function, *arguments))
            else:
                result = function(*arguments)
                hook.held(clock() - began)
            if isinstance(result, Awaitable):
                result = await bounded(hook, result)
            return read(result)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        hook.failed(error)
    finally:
        hook.took(clock() - began)
    return None


async def fold(hooks: Hooks, value: T, call: Call) -> T:
    """Each hook gets the value of the one before it; None leaves it unchanged."""
    for hook in applying(hooks, call):
        result = await invoke(hook, value, call)
        if result is not None:
            value = result
    return value


async def first(hooks: Hooks, head: Head, call: Call) -> Principal | None:
    """The first answer that is not None."""
    for hook in applying(hooks, call):
        result: Principal | None = await invoke(hook, head, call)
        if result is not None:
            return result
    return None


async def fold_until_reply(
    hooks: Hooks, request: RequestView, call: Call
) -> tuple[RequestView | Reply, str]:
    """As `fold`; a `Reply` ends it, and beside it stands the plugin that gave it."""
    for hook in applying(hooks, call):
        result: RequestView | Reply | None = await invoke(hook, request, call)
        if isinstance(result, Reply):
            return result, hook.plugin
        if result is not None:
            request = result
    return request, ""


def denial(hooks: Hooks, call: Call, model: str) -> str | None:
    """The first sentence that denies. A hook that fails or raises denies too."""
    for hook in applying(hooks, call):
        try:
            sentence = asked(hook, call, model)
        except GatewayError as error:
            error.let_go()
            return error.message
        if sentence is not None:
            return sentence or _DENIED
    return None


def asked(hook: CompiledHook, call: Call, model: str) -> str | None:
    """The sentence of one `authorize`. Raises `GatewayError`."""
    clock = hook.clock
    began = clock()
    sentence: str | None = None
    try:
        with hook:
            sentence = hook.function(call, model)
            if sentence is not None:
                hook.check(sentence)
    finally:
        seconds = clock() - began
        hook.took(seconds)
        hook.held(seconds)
    return sentence
