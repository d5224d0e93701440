import pytest

from llmgw_core.domain.usage import Usage
from llmgw_core.wire.usage import read_usage


def test_all_classes_of_tokens_are_read() -> None:
    raw = (
        b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        b'"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":2}}'
    )
    assert read_usage(raw) == Usage(10, 5, 4, 2)


def test_embeddings_have_no_completion_tokens() -> None:
    assert read_usage(b'{"prompt_tokens":8,"total_tokens":8}') == Usage(8, 0)


def test_output_may_be_known_only_by_the_total() -> None:
    assert read_usage(b'{"prompt_tokens":8,"total_tokens":11}') == Usage(8, 3)


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
        b'{"prompt_tokens":0,"completion_tokens":0}',
        b'{"prompt_tokens":"7","completion_tokens":1}',
        b'{"prompt_tokens":-7,"completion_tokens":9}',
        b'{"prompt_tokens":7,"completion_tokens":-1}',
        b'{"prompt_tokens":1e30,"completion_tokens":1}',
        b'{"prompt_tokens":99999999999999999,"completion_tokens":1}',
        b'{"prompt_tokens":' + b"[" * 10000,
    ],
)
def test_implausible_usage_is_no_usage_so_that_zero_is_never_booked(raw: bytes) -> None:
    assert read_usage(raw) is None


def test_more_cached_tokens_than_input_are_not_believed() -> None:
    raw = b'{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":9}}'
    assert read_usage(raw) == Usage(1, 1)
