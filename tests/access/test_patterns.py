from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.access import patterns

# A small alphabet, so that matches and near misses are frequent; it holds the characters that
# are special to fnmatch and to regular expressions.
pattern_texts = st.text("aAb.*?[]-", max_size=8)
names = st.text("aAb.?[]-\n", max_size=10)


def by_regular_expression(pattern: str, name: str) -> bool:
    expression = ".*".join(re.escape(piece) for piece in pattern.split("*"))
    return re.fullmatch(expression, name, re.DOTALL) is not None


@given(pattern_texts, names)
def test_only_the_star_is_special(pattern: str, name: str) -> None:
    assert patterns.matches(pattern, name) == by_regular_expression(pattern, name)


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), st.text("ab", max_size=3))
def test_a_star_stands_for_any_text(pieces: list[str], filling: str) -> None:
    assert patterns.matches("*".join(pieces), filling.join(pieces))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-*", "gpt-", True),
        ("gpt-*", "my-gpt-4o", False),
        ("*-mini", "gpt-4o-mini", True),
        ("GPT-*", "gpt-4o", False),
        ("a*a", "a", False),
        ("a*b*a", "aba", True),
        ("a*b*a", "aa", False),
        ("ab*bc", "abc", False),
        ("gpt-?", "gpt-4", False),
        ("[a-z]", "b", False),
        ("*", "", True),
    ],
)
def test_examples(pattern: str, name: str, expected: bool) -> None:
    assert patterns.matches(pattern, name) is expected


def test_many_stars_do_not_make_matching_slow() -> None:
    # A backtracking matcher would need longer than the test may take.
    assert not patterns.matches("*a" * 60 + "*b", "a" * 20_000)


@pytest.mark.parametrize("good", ["gpt-4o", "*", "gpt-*", "meta/Llama-3.1:free", "tag:on-prem"])
def test_patterns_that_can_be_granted(good: str) -> None:
    assert patterns.problem(good) == ""


@pytest.mark.parametrize(
    "bad", ["", "gpt 4", "gpt?", "[a]", "tag:", "tag:*", "tag:a:b", "a" * 201, "é", "a\n"]
)
def test_patterns_that_cannot_be_granted(bad: str) -> None:
    assert patterns.problem(bad)


def test_a_set_names_the_pattern_that_matched() -> None:
    listed = patterns.PatternSet(["gpt-*", "llama", "tag:cheap"])
    assert listed.match("llama", ()) == "llama"
    assert listed.match("gpt-4o", ()) == "gpt-*"
    assert listed.match("other", {"cheap"}) == "tag:cheap"
    assert listed.match("other", {"dear"}) is None


def test_a_tag_is_no_name() -> None:
    assert patterns.PatternSet(["tag:cheap"]).match("tag:cheap", ()) is None
