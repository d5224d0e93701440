"""Counting within bounds: however long a text is, a tokenizer gets no more than it may."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.limits.tokenizers import Counter

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Bytes:
    """A token is four bytes; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def count(self, text: str) -> int:
        size = len(text.encode("utf-8", "replace"))
        self.given.append(size)
        return -(-size // 4)


def counter(tokenizer: object, largest: int = 100) -> Counter:
    guard: AbstractContextManager[object] = nullcontext()
    return Counter("x", tokenizer, guard=guard, largest=largest)  # type: ignore[arg-type]


def test_all_texts_are_counted_as_one() -> None:
    assert counter(Bytes()).tokens(["ab", "cd", "efgh"]) == 2
    assert counter(Bytes()).tokens([]) == 0


@given(st.text(max_size=400), st.integers(1, 200), st.integers(0, 3000))
def test_no_more_than_the_bound_is_counted_and_the_rest_is_like_it(
    text: str, largest: int, more: int
) -> None:
    tokenizer = Bytes()
    size = len(text.encode("utf-8", "surrogatepass"))
    found = counter(tokenizer, largest).tokens([text], size + more)
    assert max(tokenizer.given) <= max(largest, 1)
    assert found is not None
    if size >= largest > 8:
        assert (size + more) / 4 <= found <= (size + more) * (1 + 8 / (largest - 3)) / 4 + 2


def test_the_rest_of_a_stream_is_like_its_beginning() -> None:
    assert counter(Bytes()).tokens(["abcd" * 10], 4000) == 1000


@pytest.mark.parametrize("answer", [None, -1, "7", 2.5])
def test_what_is_no_number_of_tokens_is_none(answer: object) -> None:
    class Odd:
        def count(self, text: str) -> object:
            return answer

    assert counter(Odd()).tokens(["text"]) is None


def test_a_tokenizer_that_fails_has_counted_nothing() -> None:
    class Failing:
        def count(self, text: str) -> int:
            raise RuntimeError("no")

    failing = Counter("x", Failing(), guard=suppress(RuntimeError), largest=10)
    assert failing.tokens(["text"]) is None
