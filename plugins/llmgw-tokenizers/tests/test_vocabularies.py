"""The vocabularies are there, count what is known of them, and fail on no text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_tokenizers.plugin import VOCABULARIES, Vocabulary

O200K = Vocabulary("o200k_base")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("hello world", 2), ("Hello, world!", 4), ("antidisestablishmentarianism", 6)],
)
def test_texts_have_their_known_lengths(text: str, tokens: int) -> None:
    assert O200K.count(text) == tokens


@pytest.mark.parametrize("name", VOCABULARIES)
def test_every_vocabulary_is_installed(name: str) -> None:
    assert Vocabulary(name).count("The quick brown fox jumps over the lazy dog.") == 10


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_special_token_that_somebody_types_is_text(name: str) -> None:
    assert Vocabulary(name).count("<|endoftext|><|im_start|>") > 1


@given(st.text(st.characters()))
def test_no_text_makes_it_fail_and_no_token_is_less_than_a_byte(text: str) -> None:
    assert 0 <= O200K.count(text) <= len(text.encode("utf-8", "replace"))


def test_half_of_a_surrogate_pair_counts_as_something() -> None:
    assert O200K.count("a\ud83d") >= 1


def test_a_vocabulary_that_there_is_not_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        Vocabulary("of_nobody")
