from __future__ import annotations

import hashlib
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.access import keys

random_bytes = st.binary(min_size=32, max_size=32)


@given(random_bytes)
def test_a_generated_key_is_well_formed(random: bytes) -> None:
    key = keys.generate(lambda n: random[:n])
    assert keys.well_formed(key)
    assert len(key) == 58
    assert key.startswith("sk-llmgw-")


@given(random_bytes, random_bytes)
def test_different_randomness_gives_different_keys(one: bytes, other: bytes) -> None:
    keys_equal = keys.generate(lambda _: one) == keys.generate(lambda _: other)
    assert keys_equal == (one == other)


def test_a_key_carries_256_bits() -> None:
    asked: list[int] = []

    def randomness(n: int) -> bytes:
        asked.append(n)
        return b"\xff" * n

    assert keys.well_formed(keys.generate(randomness))
    assert asked == [32]


@given(random_bytes, st.integers(0, 57), st.sampled_from("0aZ-é٣ \x00"))
def test_one_changed_character_is_recognised(random: bytes, at: int, character: str) -> None:
    key = keys.generate(lambda _: random)
    changed = key[:at] + character + key[at + 1 :]
    assert keys.well_formed(changed) == (changed == key)


@given(st.text())
def test_any_text_can_be_tested_and_digested(text: str) -> None:
    assert not keys.well_formed(text)
    assert len(keys.digest(text)) == 32


def test_text_that_is_no_unicode_can_be_digested() -> None:
    assert len(keys.digest("sk-llmgw-\ud800")) == 32


@pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None), slice(0, 0)])
def test_a_part_of_a_key_is_no_key(cut: slice) -> None:
    assert not keys.well_formed(keys.generate(secrets.token_bytes)[cut])


def test_a_key_is_stored_as_its_sha256() -> None:
    key = keys.generate(secrets.token_bytes)
    assert keys.digest(key) == hashlib.sha256(key.encode()).digest()


def test_the_hint_is_the_end_of_the_key() -> None:
    assert keys.hint("sk-llmgw-abcdef") == "cdef"
