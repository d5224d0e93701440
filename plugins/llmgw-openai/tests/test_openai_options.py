from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.domain.deployment import Origin
from llmgw_openai.options import RESERVED, OpenAIOptions, OptionError


def options(**fields: Any) -> OpenAIOptions:
    return msgspec.convert({"base_url": "https://host/v1"} | fields, OpenAIOptions)


@pytest.mark.parametrize(
    ("url", "origin", "prefix"),
    [
        ("https://host/v1", Origin("https", "host", 443), "/v1"),
        ("https://host/v1/", Origin("https", "host", 443), "/v1"),
        ("https://host", Origin("https", "host", 443), ""),
        ("http://host:8000/a/b/v1", Origin("http", "host", 8000), "/a/b/v1"),
        ("http://HOST.example", Origin("http", "host.example", 80), ""),
        ("http://[::1]:8000/v1", Origin("http", "::1", 8000), "/v1"),
        (
            "https://h/openai/deployments/a%20b",
            Origin("https", "h", 443),
            "/openai/deployments/a%20b",
        ),
    ],
)
def test_an_address_is_origin_and_path_prefix(url: str, origin: Origin, prefix: str) -> None:
    upstream = options(base_url=url).upstream
    assert (upstream.origin, upstream.path_prefix) == (origin, prefix)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("host/v1", "must look like"),
        ("ftp://host/v1", "must look like"),
        ("https:///v1", "must look like"),
        ("", "must look like"),
        ("https://me@host/v1", "must not contain a user"),
        ("https://me:secret@host/v1", "must not contain a user"),
        ("https://host/v1?a=b", "query or a fragment"),
        ("https://host/v1?", "query or a fragment"),
        ("https://host/v1#a", "query or a fragment"),
        ("https://host:0/v1", "no URL has"),
        ("https://host:99999/v1", "is not a URL"),
        ("https://[host/v1", "is not a URL"),
        ("https://ho st/v1", "no URL has"),
        ("https://host/v 1", "no URL has"),
        ("https://hóst/v1", "no URL has"),
        ("https://host/v1\u2028", "no URL has"),
    ],
)
def test_an_address_that_cannot_work_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint) as raised:
        _ = options(base_url=url).upstream
    assert raised.value.option == "base_url"
    assert "secret" not in str(raised.value)


def test_headers_are_sent_as_configured() -> None:
    given = options(organization="org", project="prj", headers={"X-Team": "a b"})
    assert given.upstream.headers == (
        (b"openai-organization", b"org"),
        (b"openai-project", b"prj"),
        (b"x-team", b"a b"),
    )


@pytest.mark.parametrize("name", [*sorted(RESERVED), "Authorization", "HOST"])
def test_headers_of_the_gateway_cannot_be_overridden(name: str) -> None:
    with pytest.raises(OptionError, match="set by the gateway"):
        _ = options(headers={name: "x"}).upstream


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": {"x team": "a"}},
        {"headers": {"": "a"}},
        {"headers": {"x": "a\r\nhost: b"}},
        {"headers": {"x": ""}},
        {"headers": {"x": "a "}},
        {"headers": {"x": "\u20ac"}},
        {"organization": "a\nb"},
        {"headers": {"X-A": "1", "x-a": "2"}},
        {"organization": "a", "headers": {"OpenAI-Organization": "b"}},
        {"auth_header": "api-key", "headers": {"api-key": "b"}},
    ],
)
def test_headers_that_cannot_be_sent_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as raised:
        _ = options(**fields).upstream
    assert raised.value.option == "headers"


@given(st.text())
def test_no_configured_value_can_begin_a_header_of_its_own(value: str) -> None:
    try:
        headers = options(headers={"x": value}).upstream.headers
    except OptionError:
        return
    assert not set(headers[0][1]) & set(b"\r\n\0")


@pytest.mark.parametrize(
    ("given", "name", "scheme"),
    [
        ("authorization: Bearer", b"", b""),
        ("Authorization:Bearer", b"", b""),
        ("api-key", b"api-key", b""),
        ("X-Key: Token", b"x-key", b"Token "),
        ("authorization: Basic", b"authorization", b"Basic "),
        ("authorization", b"authorization", b""),
    ],
)
def test_the_credential_goes_where_the_upstream_wants_it(
    given: str, name: bytes, scheme: bytes
) -> None:
    upstream = options(auth_header=given).upstream
    assert (upstream.auth_header, upstream.auth_scheme) == (name, scheme)


@pytest.mark.parametrize("given", ["", ": Bearer", "a b", "host", "content-length", "a: b\nc"])
def test_a_header_that_cannot_carry_a_credential_is_refused(given: str) -> None:
    with pytest.raises(OptionError) as raised:
        _ = options(auth_header=given).upstream
    assert raised.value.option == "auth_header"


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"client_cert": "c.pem"}, "client_cert"),
        ({"client_key": "k.pem"}, "client_cert"),
        ({"base_url": "http://host", "ca_file": "ca.pem"}, "base_url"),
    ],
)
def test_tls_files_that_make_no_sense_are_refused(fields: dict[str, Any], option: str) -> None:
    with pytest.raises(OptionError) as raised:
        _ = options(**fields).upstream
    assert raised.value.option == option


def test_what_a_call_needs_is_worked_out_once() -> None:
    given = options()
    assert given.upstream is given.upstream


def test_unknown_options_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="base_uri"):
        options(base_uri="https://host")
