"""The section `outgoing`: what it means, what it must not say, and who goes directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse
from llmgw_core.config.outgoing import merged, outgoing_of, unused_variables
from llmgw_core.config.schema import OutgoingConfig
from llmgw_core.config.secrets import SecretText
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.errors import ConfigError
from llmgw_core.domain.outgoing import DIRECT, Outgoing, Proxy, exemption

PROXY = OutgoingConfig(proxy="http://proxy.corp:3128", proxy_user="u", proxy_password="p")


def way(general: OutgoingConfig, own: OutgoingConfig | None = None, **env: str) -> Outgoing:
    return outgoing_of(general, own, env, "outgoing")


def test_without_a_section_everything_goes_directly_whatever_the_environment_says() -> None:
    env = {"HTTPS_PROXY": "http://elsewhere:1", "http_proxy": "http://elsewhere:1"}
    assert outgoing_of(OutgoingConfig(), None, env, "outgoing") == DIRECT
    assert unused_variables(OutgoingConfig(), env) == ["HTTPS_PROXY", "http_proxy"]
    assert unused_variables(OutgoingConfig(proxy="none"), env) == []


def test_one_proxy_serves_both_schemes_and_this_machine_is_always_direct() -> None:
    outgoing = way(PROXY)
    proxy = Proxy("http", "proxy.corp", 3128, "u", Credential("p"))
    assert outgoing.proxy_for("https", "api.example.com", 443) == proxy
    assert outgoing.proxy_for("http", "gpu.lan", 80) == proxy
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "engine.localhost", "LOCALHOST."):
        assert outgoing.proxy_for("http", host, 8000) is None


def test_the_environment_is_obeyed_where_it_is_asked_for() -> None:
    section = OutgoingConfig(proxy="environment", no_proxy=(".lan",))
    outgoing = way(
        section,
        https_proxy="http://us%65r:p%3Ass@a:1",
        HTTPS_PROXY="http://not-this:1",
        HTTP_PROXY="b:2",
        NO_PROXY="corp.example, 10.0.0.0/8,?,",
    )
    secure = outgoing.proxy_for("https", "api.example.com", 443)
    assert secure == Proxy("http", "a", 1, "user", Credential("p:ss"))
    assert outgoing.proxy_for("http", "x.example", 80) == Proxy("http", "b", 2)
    for host in ("gpu.lan", "a.corp.example", "corp.example", "10.9.9.9"):
        assert outgoing.proxy_for("https", host, 443) is None
    assert way(section) == DIRECT
    both = way(section, ALL_PROXY="https://c")
    assert both.proxy_for("http", "x", 80) == Proxy("https", "c", 443)


def test_a_proxy_of_the_environment_that_is_not_spoken_is_an_error() -> None:
    with pytest.raises(ConfigError, match="`http_proxy` of the environment must look like"):
        way(OutgoingConfig(proxy="environment"), all_proxy="socks5://secret@h:1")


def test_a_deployment_replaces_key_by_key_but_never_shows_one_proxy_the_others_secret() -> None:
    general = OutgoingConfig(
        proxy="http://a:1",
        proxy_user="u",
        proxy_password="p",
        no_proxy=("x",),
        client_cert="c",
        client_key="k",
    )
    other = merged(general, OutgoingConfig(proxy="http://b:2", client_cert=""))
    assert (other.proxy, other.proxy_user, other.proxy_password) == ("http://b:2", None, None)
    assert (other.no_proxy, other.client_cert, other.client_key) == (("x",), "", None)
    assert merged(general, None) is general
    direct = way(PROXY, OutgoingConfig(proxy="none", ca_file="/ca", system_ca=False))
    assert direct == Outgoing(ca_file="/ca", system_ca=False)


@pytest.mark.parametrize(
    ("entry", "direct", "proxied"),
    [
        ("*", ["a:1", "1.2.3.4:5"], []),
        ("example.com", ["example.com:1", "a.example.com:1"], ["badexample.com:1", "com:1"]),
        (".example.com", ["a.example.com:1"], ["example.com:1"]),
        ("*.example.com", ["a.b.example.com:1"], ["example.com:1"]),
        ("Example.COM.", ["example.com:1", "EXAMPLE.com.:1"], []),
        ("example.com:8443", ["example.com:8443"], ["example.com:443"]),
        ("10.0.0.0/8", ["10.255.0.1:1"], ["11.0.0.1:1", "10.example.com:1"]),
        ("10.1.2.3/8", ["10.255.0.1:1"], []),
        ("192.168.1.7", ["192.168.1.7:1"], ["192.168.1.70:1"]),
        ("192.168.1.7:80", ["192.168.1.7:80"], ["192.168.1.7:81"]),
        ("fd00::/8", ["[fd12::1]:1"], ["[2001:db8::1]:1"]),
        ("[::2]:80", ["[::2]:80"], ["[::2]:81"]),
    ],
)
def test_who_is_exempt(entry: str, direct: list[str], proxied: list[str]) -> None:
    rule = exemption(entry)
    outgoing = Outgoing(http_proxy=Proxy("http", "p", 1), no_proxy=(rule,))
    for expected, names in ((True, direct), (False, proxied)):
        for name in names:
            host, _, port = name.rpartition(":")
            found = outgoing.proxy_for("http", host.strip("[]"), int(port))
            assert (found is None) == expected, name


@given(st.text(max_size=20))
def test_an_entry_is_understood_or_refused(text: str) -> None:
    try:
        rule = exemption(text)
    except ValueError:
        return
    assert rule.covers("some.host", 443) in {True, False}


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("proxy: ''", "outgoing.proxy"),
        ("proxy: corp:3128", "outgoing.proxy"),
        ("proxy: socks5://SECRET@h:1", "outgoing.proxy"),
        ("proxy: http://SECRET:x@h:port", "outgoing.proxy"),
        ("proxy: http://SECRET:x@h:1/path", "outgoing.proxy"),
        ("proxy: http://", "outgoing.proxy"),
        ("{proxy: 'http://SECRET:x@h', proxy_user: y}", "outgoing.proxy_user"),
        ("{proxy: 'http://h', proxy_user: 'SECRET:x'}", "outgoing.proxy_user"),
        ("{proxy: 'http://h', proxy_password: SECRET}", "outgoing.proxy_password"),
        ("no_proxy: [ok, 'a b']", "outgoing.no_proxy[1]"),
        ("no_proxy: ['h:0']", "outgoing.no_proxy[0]"),
        ("system_ca: false", "outgoing.system_ca"),
        ("client_key: k.pem", "outgoing.client_cert"),
        ("client_cert: k.pem", "outgoing.client_cert"),
    ],
)
def test_what_cannot_work_is_told_at_its_place_without_the_secret(
    section: str, path: str, tmp_path: Path
) -> None:
    deployment = f"{{name: a, backend: b, zone: z, outgoing: {section}}}"
    if not section.startswith("{"):
        deployment = f"{{name: a, backend: b, zone: z, outgoing: {{{section}}}}}"
    text = f"accounting: {{unpriced: zero}}\nmodels: {{m: {{deployments: [{deployment}]}}}}"
    general = f"outgoing: {section if section.startswith('{') else '{' + section + '}'}"
    for document, prefix in ((general, ""), (text, "models.m.deployments[0].")):
        with pytest.raises(ConfigErrors) as caught:
            parse(document, base_dir=tmp_path, env={})
        assert [error.path for error in caught.value.errors] == [prefix + path]
        assert "SECRET" not in str(caught.value)


def test_files_are_relative_to_the_configuration_and_secrets_may_stand_in_files(
    tmp_path: Path,
) -> None:
    (tmp_path / "password").write_text("hush\n")
    text = """
outgoing: {proxy: "http://h:1", proxy_user: u, proxy_password: "file:password", ca_file: ca.pem}
accounting: {unpriced: zero}
models:
  m:
    deployments:
      - {name: a, backend: b, zone: z, outgoing: {client_cert: c.pem, client_key: k.pem}}
"""
    config = parse(text, base_dir=tmp_path, env={})
    assert config.outgoing.ca_file == str(tmp_path / "ca.pem")
    own: Any = config.models["m"].deployments[0].outgoing
    assert (own.client_cert, own.client_key) == (str(tmp_path / "c.pem"), str(tmp_path / "k.pem"))
    password = config.outgoing.proxy_password
    assert isinstance(password, SecretText)
    assert (password, password.file) == ("hush", tmp_path / "password")


def test_the_example_is_valid(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "behind-a-proxy.yaml"
    (tmp_path / "secrets").mkdir()
    for name in ("proxy-password", "openai-key"):
        (tmp_path / "secrets" / name).write_text("hush")
    config = parse(example.read_text(encoding="utf-8"), base_dir=tmp_path, env={})
    outgoing = way(config.outgoing)
    assert outgoing.proxy_for("https", "api.openai.com", 443) is not None
    assert outgoing.proxy_for("https", "rack-1.corp.example", 443) is None
    assert outgoing.ca_file == str(tmp_path / "certificates" / "corp-ca.pem")


def test_nothing_shows_a_secret_by_its_representation() -> None:
    section = OutgoingConfig(proxy="http://u:SECRET@h:1", proxy_password="SECRET")
    shown = [repr(section), repr(way(section)), repr(Credential("SECRET"))]
    assert not [text for text in shown if "SECRET" in text]
    assert not Credential()
    assert len({Credential("a"), Credential("a"), Credential("b")}) == 2
