"""Who calls and for what: 401, 403 and 404 cost nobody anything, and the first comes unread."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import World

BAD_KEYS = [
    "expired",
    "disabled",
    "revoked",
    "erased",
    "mistyped",
    "malformed",
    "someone's",
    "not ASCII",
]


def said(body: bytes, request_id: str | None, name: str = "-") -> bytes:
    """The body without what differs by design."""
    return body.replace(str(request_id).encode(), b"ID").replace(name.encode(), b"NAME")


@pytest.mark.parametrize("which", BAD_KEYS)
def test_a_bad_key_is_401_and_says_nothing_about_why(world: World, kind: str, which: str) -> None:
    key = world.keys[which]
    answer = world.exchange(kind, world.request(key=key), 401, "invalid_api_key", ends=False)
    assert answer.error["type"] == "authentication_error"
    other = world.exchange(kind, world.request(key="other"), 401, "invalid_api_key")
    assert said(answer.body, answer.header("x-request-id")) == said(
        other.body, other.header("x-request-id")
    )


@pytest.mark.parametrize("key", [None, " ", "  \t"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_no_key_is_401(world: World, kind: str, path: str, key: str | None) -> None:
    answer = world.exchange(kind, world.request(key=key, path=path), 401, "invalid_api_key")
    assert "did not provide" in answer.error["message"]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(("expect: 100-continue", "content-length: 10000"), id="100-continue"),
        pytest.param(("content-length: 10000",), id="half a body"),
        pytest.param(("content-length: 10000000",), id="far too long"),
        pytest.param(("transfer-encoding: chunked",), id="chunks"),
        pytest.param(("content-type: text/plain", "content-length: 10"), id="not JSON"),
    ],
)
def test_401_comes_before_the_body(world: World, kind: str, head: tuple[str, ...]) -> None:
    request = world.request(b"", key="nonsense", headers=head, length=None)
    if "expect" not in head[0]:
        request += b"5\r\n{" if "chunked" in head[0] else b"{"
    world.new_rows()
    with world.wire(kind) as wire:
        wire.send(request)
        answer = wire.answer()
    world.envelope(answer, 401, "invalid_api_key", None)
    world.aftermath(kind, answer, 0)


def test_unknown_and_not_granted_models_are_the_same_404(world: World, kind: str) -> None:
    answers = {}
    for name in ("hidden", "absent"):
        request = world.request({"model": name, "messages": [1]})
        answers[name] = world.exchange(kind, request, 404, "model_not_found", "model", ends=False)
    left, right = answers["hidden"], answers["absent"]
    assert said(left.body, left.header("x-request-id"), "hidden") == said(
        right.body, right.header("x-request-id"), "absent"
    )
    assert [name for name, _ in left.headers] == [name for name, _ in right.headers]


@pytest.mark.parametrize("name", ["hidden", "absent", "denied", "far", "%00", "a%0d%0ab", "%ff"])
def test_the_list_of_models_knows_no_others_either(world: World, kind: str, name: str) -> None:
    request = world.request(b"", path=f"/v1/models/{name}", method="GET", headers=(), length=None)
    world.exchange(kind, request, 404, "model_not_found", "model", ends=False)


@pytest.mark.parametrize("model", ["denied", "far"])
def test_what_policy_denies_is_403(world: World, kind: str, model: str) -> None:
    request = world.request({"model": model, "messages": [1]})
    world.exchange(kind, request, 403, "permission_denied", ends=False)


@pytest.mark.parametrize(
    "name",
    [
        "a\r\nset-cookie: x=1",
        "a\x00b",
        "\u2028\u202e",
        "'; drop table keys; --",
        "../../etc/passwd",
        "{{7*7}}%s{0}",
        "m" * 5000,
        "M",
        " m",
    ],
)
def test_names_of_models_go_nowhere_but_into_the_message(
    world: World, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = world.request({"model": name, "messages": [1]})
    answer = world.exchange(kind, request, 404, "model_not_found", "model", ends=False)
    assert answer.error["message"].startswith(f"The model '{name[:200]}")
    assert len(answer.body) < 2000
    assert not any("\r" in line or "\n" in line for _, line in answer.headers)
    assert name not in caplog.text


@pytest.mark.parametrize(
    ("path", "model"), [("/v1/embeddings", "m"), ("/v1/chat/completions", "e")]
)
def test_a_model_of_the_other_kind_is_400(world: World, kind: str, path: str, model: str) -> None:
    body = {"model": model, "messages": [1], "input": "x"}
    world.exchange(kind, world.request(body, path=path), 400, "unsupported_model", "model")


@pytest.mark.parametrize("id", ["evil", "a\tb", "req_" + "0" * 32, "x" * 4000])
def test_a_clients_own_request_id_is_not_taken(world: World, kind: str, id: str) -> None:
    headers = ("content-type: application/json", f"x-request-id: {id}")
    answer = world.exchange(
        kind, world.request(key="bad", headers=headers), 401, "invalid_api_key", ends=False
    )
    assert answer.header("x-request-id") != id
    assert json.loads(answer.body)["error"]["request_id"] != id
