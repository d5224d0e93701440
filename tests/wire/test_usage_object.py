"""Usage objects: every class of tokens, whoever names it, and nothing that makes no sense."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.usage import Usage, UsageDetails
from llmgw_core.wire.usage import read_usage


def read(**fields: Any) -> Usage | None:
    return read_usage(msgspec.json.encode(fields))


def test_all_classes_of_tokens_are_read() -> None:
    found = read(
        prompt_tokens=100,
        completion_tokens=50,
        total_tokens=150,
        prompt_tokens_details={
            "cached_tokens": 40,
            "cache_write_tokens": 20,
            "audio_tokens": 7,
            "image_tokens": 5,
        },
        completion_tokens_details={
            "reasoning_tokens": 20,
            "audio_tokens": 6,
            "image_tokens": 4,
            "accepted_prediction_tokens": 3,
            "rejected_prediction_tokens": 2,
        },
    )
    assert found == Usage(100, 50, 40, 20, details=UsageDetails(20, 7, 6, 5, 4, 3, 2))


def test_usage_without_rare_classes_has_no_details() -> None:
    details = {"cached_tokens": 4, "audio_tokens": 0}
    found = read(prompt_tokens=10, completion_tokens=5, prompt_tokens_details=details)
    assert found == Usage(10, 5, 4)
    assert found.details is None


def test_embeddings_have_no_completion_tokens() -> None:
    assert read_usage(b'{"prompt_tokens":8,"total_tokens":8}', embeddings=True) == Usage(8, 0)
    assert read_usage(b'{"prompt_tokens":8,"total_tokens":8}') == Usage(8, 0)
    assert read_usage(b'{"total_tokens":8}', embeddings=True) == Usage(8, 0)
    assert read_usage(b'{"prompt_tokens":8,"total_tokens":9}', embeddings=True) == Usage(8, 0)
    assert read_usage(b'{"completion_tokens":8}', embeddings=True) is None


def test_one_of_the_two_may_be_known_only_by_the_total() -> None:
    assert read_usage(b'{"prompt_tokens":8,"total_tokens":11}') == Usage(8, 3)
    assert read_usage(b'{"completion_tokens":8,"total_tokens":11}') == Usage(3, 8)


def test_null_details_are_no_details() -> None:
    raw = b'{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":null}'
    assert read_usage(raw) == Usage(1, 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b'"usage"',
        b'{"total_tokens":8}',
        b'{"completion_tokens":8}',
        b'{"prompt_tokens":0,"completion_tokens":0}',
        b'{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}',
        b'{"prompt_tokens":"7x","completion_tokens":1}',
        b'{"prompt_tokens":true,"completion_tokens":1}',
        b'{"prompt_tokens":[7],"completion_tokens":1}',
        b'{"prompt_tokens":7.5,"completion_tokens":1}',
        b'{"prompt_tokens":-7,"completion_tokens":9}',
        b'{"prompt_tokens":7,"completion_tokens":-1}',
        b'{"prompt_tokens":1e30,"completion_tokens":1}',
        b'{"prompt_tokens":1e999,"completion_tokens":1}',
        b'{"prompt_tokens":99999999999999999,"completion_tokens":1}',
        b'{"prompt_tokens":9007199254740992,"completion_tokens":9007199254740992}',
        b'{"prompt_tokens":' + b"[" * 10000,
    ],
)
def test_implausible_usage_is_no_usage_so_that_zero_is_never_booked(raw: bytes) -> None:
    assert read_usage(raw) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt_tokens": "7", "completion_tokens": 2.0}, Usage(7, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": -1}, Usage(7, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 3}, Usage(7, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 2**50}, Usage(7, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": []}, Usage(7, 2)),
        (
            {
                "prompt_tokens": 7,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": -4, "audio_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": "many"},
            },
            Usage(7, 2, details=UsageDetails(audio_input_tokens=3)),
        ),
    ],
)
def test_what_is_odd_is_left_out_and_the_rest_is_kept(
    fields: dict[str, Any], expected: Usage
) -> None:
    assert read(**fields) == expected


def test_more_of_a_class_than_there_is_of_its_sum_is_not_believed() -> None:
    one: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert read(**one, prompt_tokens_details={"cached_tokens": 9}) == Usage(1, 1)
    assert read(**one, completion_tokens_details={"reasoning_tokens": 2}) == Usage(1, 1, 0, 1)
    audio = UsageDetails(audio_input_tokens=1)
    assert read(**one, prompt_tokens_details={"audio_tokens": 9}) == Usage(1, 1, details=audio)


def test_reasoning_beside_the_completion_is_output() -> None:
    usage = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}
    details = {"reasoning_tokens": 94}
    assert read(**usage, completion_tokens_details=details) == Usage(32, 103, 0, 94)
    del usage["total_tokens"]
    assert read(**usage, completion_tokens_details=details) == Usage(32, 103, 0, 94)


def test_far_more_reasoning_than_completion_is_output_whatever_the_total_says() -> None:
    usage = {"prompt_tokens": 19, "completion_tokens": 84, "total_tokens": 103}
    assert read(**usage, reasoning_tokens=1081) == Usage(19, 1165, 0, 1081)
    assert read(**usage, reasoning_tokens=168) == Usage(19, 84, 0, 84)


def test_what_the_total_has_beyond_both_is_output_that_was_not_shown() -> None:
    assert read(prompt_tokens=20, completion_tokens=198, total_tokens=623) == Usage(20, 603, 0, 405)


@pytest.mark.parametrize("total", [None, 1065])
def test_a_cache_beside_the_input_is_input(total: int | None) -> None:
    fields = {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 50}
    found = read(prompt_tokens=10, completion_tokens=5, total_tokens=total, **fields)
    assert found == Usage(1060, 5, 1000, details=UsageDetails(cache_write_tokens=50))


def test_where_input_has_anthropics_name_the_cache_is_never_a_part_of_it() -> None:
    fields = {"input_tokens": 2000, "output_tokens": 5, "cache_read_input_tokens": 1000}
    assert read(**fields) == Usage(3000, 5, 1000)
    assert read(**fields, total_tokens=2005) == Usage(2000, 5, 1000)


def test_a_cache_within_the_input_is_not_counted_twice() -> None:
    fields = {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 50}
    found = read(prompt_tokens=1060, completion_tokens=5, total_tokens=1065, **fields)
    assert found == Usage(1060, 5, 1000, details=UsageDetails(cache_write_tokens=50))


counts: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 100),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([None, True, "12", "", "nine", [], {}, {"cached_tokens": 3}]),
)
NAMES = (
    "cached_tokens",
    "reasoning_tokens",
    "audio_tokens",
    "image_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
    "cache_write_tokens",
    "cache_creation_tokens",
)
TOP = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_cache_hit_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
    "input_tokens",
    "output_tokens",
)
details = st.dictionaries(st.sampled_from(NAMES), counts)
objects = st.builds(
    lambda top, inner: {**top, **inner},
    st.dictionaries(st.sampled_from(TOP), counts),
    st.dictionaries(
        st.sampled_from(["prompt_tokens_details", "completion_tokens_details"]),
        st.one_of(details, counts),
    ),
)


@given(objects, st.booleans())
def test_whatever_is_reported_every_class_is_a_part_of_its_sum(
    fields: dict[str, Any], embeddings: bool
) -> None:
    found = read_usage(msgspec.json.encode(fields), embeddings=embeddings)
    if found is None:
        return
    rare = found.details or UsageDetails()
    input = (
        found.cached_input_tokens,
        *msgspec.structs.astuple(rare)[0:2],
        rare.image_input_tokens,
    )
    output = (
        found.reasoning_tokens,
        rare.audio_output_tokens,
        rare.image_output_tokens,
        rare.accepted_prediction_tokens,
        rare.rejected_prediction_tokens,
    )
    assert 0 < found.total_tokens <= 2**53
    assert min(*input, *output) >= 0
    assert sum(input) <= found.input_tokens
    assert sum(output) <= found.output_tokens
    assert found.details is None or any(msgspec.structs.astuple(found.details))
