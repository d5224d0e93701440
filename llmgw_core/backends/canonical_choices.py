"""A chat stream with several choices (`n`), which is finished when all of them are.

Every event is decoded: choices come interleaved and end one by one, and only all their
`finish_reason`s together say that a stream without an end marker was not cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.backends.canonical_stream import CanonicalStreamReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmgw_core.backends.chunks import ChoiceFacts


class ChoicesStreamReader(CanonicalStreamReader):
    """The reader of a stream that was asked for `choices` choices."""

    __slots__ = ("_choices", "_ended")

    def __init__(self, *, hide_usage: bool, choices: int) -> None:
        super().__init__(hide_usage=hide_usage)
        self._choices = choices
        self._ended: set[int] = set()

    def feed(self, data: bytes) -> bytes:
        """See the port."""
        return self._feed_events(data)

    def _take(self, event: bytes) -> bytes:
        return self._read(event)

    def _note(self, facts: Iterable[ChoiceFacts]) -> None:
        self._ended.update(fact.index for fact in facts if fact.finished)
        self.finished = len(self._ended) >= self._choices

    def _look_for_finish(self) -> None:
        """Every event has been looked at."""
