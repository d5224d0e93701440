"""Searching text that arrives in pieces: what is found, and what becomes of it, does not depend
on where the pieces were cut.

A match may begin in one piece and end in a later one. So the last characters, as many as a match
can have, are held back until more has come or the text has ended.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Scanner(Protocol):
    """Looks at one text piece by piece. May raise `GatewayError`."""

    def push(self, text: str) -> str:
        """Take a piece; what of the text so far can be given out now."""
        ...

    def end(self) -> str:
        """The text has ended: what was held back. Afterwards a new text may begin."""
        ...


class Mask:
    r"""Replaces what `pattern` finds, as `re.sub` on the whole text would.

    `longest`: the most characters that a match can have, together with those that it looks at
    behind itself (`\b` and `(?=` look ahead); as many are held back. A match that reaches the
    end of what has come is held until it is known to be whole, whatever its length. `(?<=` sees
    `longest` characters of what was already given out. Empty matches are passed over.

    `replacement` is a text (taken as it is), or a function of the match, which may raise
    `GatewayError` to reject.
    """

    __slots__ = ("_given", "_longest", "_pattern", "_replace", "_text")

    def __init__(
        self,
        pattern: re.Pattern[str],
        replacement: str | Callable[[re.Match[str]], str],
        *,
        longest: int,
    ) -> None:
        if longest < 1:
            raise ValueError("longest must be at least 1")
        self._pattern = pattern
        self._replace = (lambda _: replacement) if isinstance(replacement, str) else replacement
        self._longest = longest
        self._text = ""
        self._given = 0

    def push(self, text: str) -> str:
        """See `Scanner`."""
        self._text += text
        return self._scan(len(self._text) - self._longest)

    def end(self) -> str:
        """See `Scanner`."""
        out = self._scan(None)
        self._text = ""
        self._given = 0
        return out

    def _scan(self, sure: int | None) -> str:
        """What can be given out. Whether a match begins at a position before `sure` is certain;
        None means that nothing more will come."""
        text, done = self._text, self._given
        out: list[str] = []
        at = done
        while at < len(text) and (found := self._pattern.search(text, at)):
            start, at = found.span()
            if sure is not None and (start >= sure or at == len(text)):
                sure = min(start, sure)  # it may go on
                break
            if start == at:
                at += 1  # an empty match is nothing to replace
                continue
            out += (text[done:start], self._replace(found))
            done = at
        rest = len(text) if sure is None else max(done, sure)
        out.append(text[done:rest])
        kept = max(0, rest - self._longest)
        self._text, self._given = text[kept:], rest - kept
        return "".join(out)


def mask_words(words: tuple[str, ...], replacement: str | Callable[[re.Match[str]], str]) -> Mask:
    """A mask of whole words, upper or lower case. Raises `ValueError` without words."""
    if not all(words) or not words:
        raise ValueError("words must not be empty")
    # The longest first, so that of two words with one beginning the longer one is found.
    ordered = sorted(words, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)"
    return Mask(re.compile(pattern, re.IGNORECASE), replacement, longest=len(ordered[0]) + 1)
