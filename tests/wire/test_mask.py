from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgw_core.wire.mask import Mask, mask_words

if TYPE_CHECKING:
    from collections.abc import Sequence

PATTERNS = {
    "a+b": 5,
    "ab|abc|b": 3,
    "a{2,4}": 4,
    "(?<=c)ab": 3,
    r"\bab\b": 4,
    "ab(?=c)": 3,
    "(?<!a)b(?!c)": 3,
    "[ab]{3}": 3,
    "(?:ab){1,2}?": 4,
    "a*": 5,
    "^a": 2,
}
"""Patterns, and the longest match on runs of up to four equal letters, lookahead included."""


def through(mask: Mask, pieces: Sequence[str]) -> str:
    return "".join([*(mask.push(piece) for piece in pieces), mask.end()])


def runs(text: str) -> str:
    """No letter more than four times in a row, so that `longest` is true."""
    return re.sub(r"(.)\1{4,}", r"\1\1\1\1", text)


texts = st.text("abc ", max_size=30).map(runs)


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str] = texts) -> tuple[str, ...]:
    """A text in pieces, empty ones included."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return tuple(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True))


@given(pattern=st.sampled_from([p for p in PATTERNS if p != "a*"]), pieces=cut())
@example(pattern=r"\bab\b", pieces=("a", "b", "", " ab"))
@example(pattern="(?<=c)ab", pieces=("xxxxxxxxc", "a", "b"))
def test_what_is_masked_does_not_depend_on_the_cuts(pattern: str, pieces: tuple[str, ...]) -> None:
    mask = Mask(re.compile(pattern), "*", longest=PATTERNS[pattern])
    text = "".join(pieces)
    assert through(mask, pieces) == re.sub(pattern, "*", text)
    assert through(mask, [text]) == re.sub(pattern, "*", text), "the mask can be used again"


@given(cut())
def test_empty_matches_are_passed_over(pieces: tuple[str, ...]) -> None:
    mask = Mask(re.compile("a*"), "*", longest=5)
    assert through(mask, pieces) == re.sub("a+", "*", "".join(pieces))


@given(cut(st.text("ab1234567890", max_size=60)))
def test_a_match_may_be_longer_than_was_said_if_it_ends_with_what_it_looks_for(
    pieces: tuple[str, ...],
) -> None:
    mask = Mask(re.compile(r"\d{4,}"), lambda found: f"<{len(found[0])}>", longest=4)
    expected = re.sub(r"\d{4,}", lambda found: f"<{len(found[0])}>", "".join(pieces))
    assert through(mask, pieces) == expected


def test_no_more_is_held_back_than_a_match_can_have() -> None:
    mask = Mask(re.compile("abcd"), "*", longest=4)
    assert [mask.push(letter) for letter in "xyzabcdx"] == ["", "", "", "", "x", "y", "z", "*"]
    assert mask.end() == "x"


def test_a_replacement_may_be_a_rejection() -> None:
    def reject(found: re.Match[str]) -> str:
        raise PermissionError(found[0])

    mask = Mask(re.compile("secret"), reject, longest=6)
    assert mask.push("a sec") == ""
    with pytest.raises(PermissionError, match="secret"):
        mask.push("ret thing")


words = st.sampled_from(["cat", "Cat", "concatenate", "catnip", "c++", "CAT", "dog", " ", "-", "."])


@given(cut(st.lists(words, max_size=8).map("".join)))
def test_words_are_masked_whole_and_in_any_case(pieces: tuple[str, ...]) -> None:
    expected = re.sub(r"(?i)(?<!\w)(?:catnip|cat|c\+\+)(?!\w)", "***", "".join(pieces))
    assert through(mask_words(("cat", "c++", "catnip"), "***"), pieces) == expected


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="longest"):
        Mask(re.compile("a"), "*", longest=0)
    for nothing in ((), ("a", "")):
        with pytest.raises(ValueError, match="words"):
            mask_words(nothing, "*")
