"""Real counting for those who want it: the port that tokenizers implement, and its bounds.

A tokenizer is asked where an estimate is made, on the event loop. So it never gets more than a
configured number of bytes of a text at once; what is beyond is taken to be like it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

MESSAGE_TOKENS: Final = 4
"""What a chat template puts around one message, about."""


class Tokenizer(Protocol):
    """What a plugin's `register_tokenizers` makes."""

    def count(self, text: str) -> int:
        """The number of tokens of `text`. Plain and quick: calls wait for it. Characters that
        cannot be encoded (halves of surrogate pairs) must not make it fail."""
        ...


class Counter:
    """A tokenizer within bounds. `largest`: bytes of text that it gets for one count. `guard` is
    entered around its code, and keeps its failures from being those of a call."""

    __slots__ = ("_guard", "_largest", "_tokenizer", "at_admission", "name")

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        *,
        guard: AbstractContextManager[object],
        largest: int,
        at_admission: bool = False,
    ) -> None:
        self.name = name
        self.at_admission = at_admission
        self._tokenizer = tokenizer
        self._guard = guard
        self._largest = largest

    def tokens(self, texts: Sequence[str], nbytes: int | None = None) -> int | None:
        """Tokens of `texts`, which are the beginning of `nbytes` bytes of text if there is more;
        None when the tokenizer fails."""
        text = "".join(texts)
        size = len(text.encode("utf-8", "surrogatepass"))
        head = text if size <= self._largest else _head(text, self._largest)
        counted: object = None
        with self._guard:
            counted = self._tokenizer.count(head)
        if not isinstance(counted, int) or counted < 0:
            return None
        given = max(size, nbytes or 0)
        part = size if head is text else len(head.encode("utf-8", "surrogatepass"))
        return counted if part == given else -(-counted * given // max(part, 1))


def _head(text: str, nbytes: int) -> str:
    """As much of the beginning of `text` as `nbytes` bytes hold, which is less than all of it."""
    # Not more characters than bytes are looked at, however long the text is.
    return text[:nbytes].encode("utf-8", "surrogatepass")[:nbytes].decode("utf-8", "ignore")
