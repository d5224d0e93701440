from __future__ import annotations

import pytest

from llmgw_core.backends.error_objects import error_in_200, status_failure

TOO_LONG = b'{"error": {"message": "the request exceeds the available context size"}}'
REFUSED = b'{"error": {"code": "content_policy_violation"}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (400, TOO_LONG, "context_window", 400),
        (413, TOO_LONG, "context_window", 413),
        (500, TOO_LONG, "context_window", 400),
        (400, REFUSED, "content_policy", 400),
        (403, REFUSED, "content_policy", 400),
        (429, TOO_LONG, "rate_limited", 429),
        (401, REFUSED, "credentials", 401),
        (405, REFUSED, "content_policy", 400),
        (400, b'{"detail": "prompt is too long"}', "context_window", 400),
        (429, b'{"error": {"code": "insufficient_quota"}}', "credentials", 429),
        (429, b'{"error": {"type": "insufficient_quota"}}', "credentials", 429),
        (429, b'{"error": {"code": "rate_limit_exceeded"}}', "rate_limited", 429),
        (400, b'{"error": {"code": "rate_limit_exceeded"}}', "client", 400),
        (500, b"<html>context window exceeded</html>", "server", 500),
    ],
)
def test_what_the_body_says_goes_before_the_status(
    status: int, body: bytes, kind: str, told: int
) -> None:
    failure = status_failure(status, body)
    assert (failure.kind, failure.status, failure.body) == (kind, told, body)


@pytest.mark.parametrize(
    ("document", "kind", "status"),
    [
        (TOO_LONG, "context_window", 400),
        (REFUSED, "content_policy", 400),
        (b'{"object": "error", "message": "context length exceeded"}', "context_window", 400),
        (b'{"error": {"type": "overloaded_error"}}', "overloaded", 200),
        (b'{"error": {"code": "rate_limit_exceeded"}}', "rate_limited", 200),
        (b'{"error": "it broke"}', "server", 0),
        (b'{"error": {"message": "no", "code": 400}}', "server", 0),
        (b"not JSON", "server", 0),
    ],
)
def test_an_error_in_a_200_is_the_servers_unless_it_says_something_else(
    document: bytes, kind: str, status: int
) -> None:
    failure = error_in_200(document, "text for logs")
    assert (failure.kind, failure.status, str(failure)) == (kind, status, "text for logs")
    assert failure.body == (document if status == 400 else b"")
