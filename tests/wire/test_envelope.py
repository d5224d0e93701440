import msgspec
import pytest

from llmgw_core.domain.errors import invalid_api_key, rate_limited
from llmgw_core.wire.envelope import error_body, error_event, error_headers


def test_errors_have_openais_envelope_and_the_request_id() -> None:
    body = msgspec.json.decode(error_body(invalid_api_key(), "req_1"))
    assert body == {
        "error": {
            "message": "Incorrect API key provided.",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
            "request_id": "req_1",
        }
    }


def test_an_error_says_when_to_come_again_and_which_request_it_is_about() -> None:
    headers = dict(error_headers(rate_limited("full", 1.2), "req_1"))
    assert headers[b"retry-after"] == b"2"
    assert headers[b"x-request-id"] == b"req_1"
    assert b"x-should-retry" not in headers


COARSE = 32768.0
"""From here on the numbers that a clock can show are twice as far apart."""


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.0, b"1"),
        (0.2, b"1"),
        (1.0, b"1"),
        (1.001, b"2"),
        (59.5, b"60"),
        (60.0, b"60"),
        ((COARSE - 0.7 + 600.0) - (COARSE - 0.7), b"600"),
        ((COARSE - 0.7 + 1.0) - (COARSE - 0.7), b"1"),
    ],
)
def test_retry_after_is_in_whole_seconds_rounded_up_and_at_least_one(
    seconds: float, value: bytes
) -> None:
    assert dict(error_headers(rate_limited("full", seconds), "r"))[b"retry-after"] == value


def test_errors_that_retrying_cannot_cure_say_so() -> None:
    assert dict(error_headers(invalid_api_key(), "r"))[b"x-should-retry"] == b"false"


def test_a_stream_ends_with_the_same_envelope_as_an_event() -> None:
    event = error_event(invalid_api_key(), "req_1")
    assert event == b"data: " + error_body(invalid_api_key(), "req_1") + b"\n\n"
