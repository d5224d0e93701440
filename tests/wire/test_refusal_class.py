from __future__ import annotations

import pytest

from llmgw_core.wire.refusal_class import class_of

# What engines and providers say when a request does not fit, each in its words.
TOO_LONG = [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    "the request exceeds the available context size, try increasing it",
    "The input (691793 tokens) is longer than the model's context length (540000 tokens).",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 3000",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "The decoder prompt (length 900) is longer than the maximum model length of 512.",
    "Context size has been exceeded.",
    "Please reduce the length of the messages or completion.",
    "max_tokens must be at least 1, got -186.",
    "The input token count exceeds the maximum number of tokens allowed (1048576).",
    "Requested tokens exceed context window of 2048",
]
NOT_ALLOWED = [
    "The response was filtered: the prompt triggers the service's content management policy.",
    "Your request was rejected as a result of our safety system.",
    "The prompt was flagged by our moderation endpoint.",
]
NEITHER = [
    "",
    "max_tokens must be at least 1",
    "The context is not valid JSON.",
    "temperature is too large: 9 > 2 maximum",
    "Our policy on names: letters only.",
]


@pytest.mark.parametrize("message", TOO_LONG)
def test_a_request_that_is_too_long_is_known_by_its_sentence(message: str) -> None:
    assert class_of({"message": message}) == "context_window"
    assert class_of({"detail": message.upper()}) == "context_window"


@pytest.mark.parametrize("message", NOT_ALLOWED)
def test_a_refused_content_is_known_by_its_sentence(message: str) -> None:
    assert class_of({"message": message}) == "content_policy"


@pytest.mark.parametrize("message", NEITHER)
def test_other_sentences_say_nothing(message: str) -> None:
    assert class_of({"message": message}) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "context_length_exceeded"}, "context_window"),
        ({"type": "exceed_context_size_error", "code": 400}, "context_window"),
        ({"code": "content_filter"}, "content_policy"),
        ({"code": "content_policy_violation"}, "content_policy"),
        ({"innererror": {"code": "ResponsibleAIPolicyViolation"}}, "content_policy"),
        ({"code": "data_inspection_failed"}, "content_policy"),
        ({"code": "rate_limit_exceeded"}, "rate_limited"),
        ({"type": "overloaded_error"}, "overloaded"),
        ({"code": "rate_limit_exceeded", "message": TOO_LONG[0]}, "context_window"),
        ({"code": "invalid_api_key"}, None),
        ({"code": 400, "type": None, "message": 7}, None),
        ({}, None),
    ],
)
def test_machine_readable_words_say_it_too(error: dict[str, object], kind: str | None) -> None:
    assert class_of(error) == kind


def test_a_long_sentence_is_looked_at_in_part() -> None:
    assert class_of({"message": "x" * 5_000_000 + TOO_LONG[0]}) is None
