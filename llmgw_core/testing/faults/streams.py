"""Faults of streams: how they end too early, in error, or not at all.

Whoever asks for a complete reply gets what is nearest to it: an error in a 200 where a stream
would carry an error event, half a document where a stream would be cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.testing.faults.bodies import error_in_200
from llmgw_core.testing.faults.performance import Piece, documented, good, streamed
from llmgw_core.testing.faults.statuses import error
from llmgw_core.testing.model_server import DONE
from llmgw_core.testing.upstream import chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.faults.performance import Ask, Performance, Then

    Make = Callable[[Ask], Performance]

_COMMENT = b": keep-alive\n\n"
_ERROR = b"data: " + error("The engine has died.") + b"\n\n"
_FINISHED = b'"finish_reason":"'
SAID = 2
"""After the first content; what comes then comes a little later, so that the client has seen it."""


def error_event(*, after: int) -> Make:
    """An error event, after nothing (0), the leading events (1), or the first content (2)."""

    def make(ask: Ask) -> Performance:
        if not ask.stream:
            return error_in_200(ask)
        begun = streamed(_begin(ask, after), end=False)
        last = Piece(chunk(_ERROR) + chunk(b""), pause=ask.pause if after == SAID else 0.0)
        return msgspec.structs.replace(begun, pieces=(*begun.pieces, last))

    return make


def named_error(ask: Ask) -> Performance:
    """An event that is called `error`."""
    if not ask.stream:
        return error_in_200(ask)
    return streamed((b"event: error\n" + _ERROR,))


def begun_and(then: Then, *, after: int, comments: int = 0) -> Make:
    """A stream that begins (see `error_event`), perhaps with comments that keep a connection
    alive, and does not go on."""

    def make(ask: Ask) -> Performance:
        if not ask.stream:
            whole = documented(ask.document)
            return whole.stopped(len(whole.data) - len(ask.document) // 2, then)
        begun = streamed((*[_COMMENT] * comments, *_begin(ask, after)), end=False, then=then)
        return msgspec.structs.replace(begun, wait=ask.pause if after == SAID else 0.0)

    return make


def commented(ask: Ask) -> Performance:
    """Comments before the first event, and a good stream behind them."""
    if not ask.stream:
        return good(ask)
    return streamed((_COMMENT, _COMMENT, *ask.events))


def without_done(ask: Ask) -> Performance:
    """Everything but the end marker."""
    if not ask.stream:
        return good(ask)
    return streamed(event for event in ask.events if event != DONE)


def without_finish(*, done: bool) -> Make:
    """No choice says that it has finished; the end marker comes (`done`) or not."""

    def make(ask: Ask) -> Performance:
        if not ask.stream:
            return good(ask)
        kept = [event for event in ask.events if _FINISHED not in event and event != DONE]
        return streamed((*kept, *([DONE] if done else ())))

    return make


def _begin(ask: Ask, after: int) -> tuple[bytes, ...]:
    return ((), ask.leading, ask.begun)[after]
