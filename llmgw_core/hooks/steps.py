"""Awaiting a plugin's coroutine step by step: for how long each step keeps the event loop is
measured, and one that goes on awaiting after it was cancelled is abandoned.

A coroutine that swallows its cancellation would otherwise hold its call for ever, timeout or not.
One that ends without waiting for anything costs no timer.
"""

from __future__ import annotations

import asyncio
import logging
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator

    from llmgw_core.hooks.compile import CompiledHook

_logger = logging.getLogger(__name__)


async def bounded(hook: CompiledHook, awaitable: Awaitable[Any]) -> Any:
    """The result of `awaitable` within the hook's timeout. Raises `TimeoutError`, and
    `CancelledError` when the task was cancelled meanwhile, whatever the plugin made of it."""
    coroutine = awaitable if asyncio.iscoroutine(awaitable) else _awaiting(awaitable)
    began = hook.clock()
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        return end.value
    finally:
        hook.held(hook.clock() - began)
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    scope = asyncio.timeout(hook.timeout)
    try:
        async with scope:
            result = await _stepping(coroutine, awaited, hook)
        if scope.expired():  # swallowed
            raise TimeoutError
    except TimeoutError:
        if scope.expired():
            hook.timeouts += 1
        raise
    finally:
        if task.cancelling() > cancelled:
            raise asyncio.CancelledError
    return result


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


@types.coroutine
def _stepping(
    coroutine: Coroutine[Any, Any, Any], awaited: Any, hook: CompiledHook
) -> Generator[Any, Any, Any]:
    """Go on with `coroutine`, which waits for `awaited`."""
    clock, argument = hook.clock, None
    step: Any = None
    patience: _Patience | None = None
    try:
        while True:
            try:
                argument = yield awaited
                step = coroutine.send
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    patience = patience or _Patience(hook.cleanup)
                    if patience.ended(hook, coroutine):
                        raise
                argument, step = error, coroutine.throw
            began = clock()
            try:
                awaited = step(argument)
            except StopIteration as end:
                return end.value
            finally:
                hook.held(clock() - began)
    finally:
        argument = step = None  # an exception would hold this frame that holds it
        if patience is not None:
            patience.timer.cancel()


class _Patience:
    """With a coroutine that was cancelled: it may clean up for a while, and no longer."""

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._over = False
        self.timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._over = True
        self._task.cancel()

    def ended(self, hook: CompiledHook, coroutine: Coroutine[Any, Any, Any]) -> bool:
        """Whether it is over; then the coroutine has been closed and our own cancellation taken
        back, so that the one before it counts."""
        if not self._over:
            return False
        self._task.uncancel()
        _logger.error("Plugin %s ignores its cancellation in %s.", hook.plugin, hook.hook)
        try:
            coroutine.close()
        except RuntimeError:  # it awaits even now
            _logger.exception("Plugin %s cannot be stopped in %s.", hook.plugin, hook.hook)
        return True
