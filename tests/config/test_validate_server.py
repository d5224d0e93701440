"""The section `server`: what is wrong is a sentence, secrets stay secret, paths become absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import parse

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.config.schema import ServerConfig

TLS = "certificate: c.pem, key: k.pem"
KEY = "admin_key: 0123456789abcdef"


def read(text: str, base: Path) -> ServerConfig:
    return parse(f"server: {{{text}}}", base_dir=base, env={"KEY": "x" * 20}).server


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("tls: {certificate: c.pem}", ["server.tls: the key `key` is missing"]),
        ("tls: {certificate: '', key: k}", ["server.tls.certificate: must name a PEM file"]),
        ("tls: {certificate: 'file:c.pem', key: k}", ["without `file:`"]),
        (
            "tls: {certificate: c, key: '-----BEGIN PRIVATE KEY-----'}",
            ["server.tls.key: names the file itself"],
        ),
        (
            f"tls: {{{TLS}, principals: [{{dns: a, key: k}}]}}",
            ["server.tls.principals: client certificates are checked against `client_ca`"],
        ),
        (
            (
                f"tls: {{{TLS}, client_ca: a, principals: [{{key: k}}, {{dns: a}}, "
                "{fingerprint: '12', key: k}, {dns: a, key: k}]}"
            ),
            [
                "server.tls.principals[0]: fits every certificate; give one of common_name, dns,",
                "server.tls.principals[1]: must say who calls",
                "server.tls.principals[2].fingerprint: ",
            ],
        ),
        (
            f"{KEY}, admin: {{port: 4000}}",
            ["server.admin.port: port 4000 is that of `server`, too; choose another."],
        ),
        (
            "port: 1, metrics: {port: 1, host: 0.0.0.0}",
            ["server.metrics.port: port 1 is that of `server`, too"],
        ),
        (
            f"{KEY}, unix: a, admin: {{unix: b}}, metrics: {{unix: b}}",
            ["server.metrics.unix: b is that of `server.admin`, too"],
        ),
        ("admin: {port: 5}", ["server.admin: the admin pages are off without `server.admin_key`"]),
        ("admin_key: short", ["server.admin_key: must have at least 16 characters."]),
        (
            (
                f"metrics: {{port: 70000, host: '', tls: {{{TLS}, client_ca: x, "
                "principals: [{dns: a, key: k}]}}"
            ),
            [
                "server.metrics.host: must not be empty",
                "server.metrics.port: must be from 1 to 65535",
                "server.metrics.tls.principals: only callers of models have principals",
            ],
        ),
        (
            (
                "head_seconds: 0, keep_alive_seconds: -1, head_bytes: 10, max_connections: 0,"
                " drain_seconds: -1"
            ),
            [
                "server.drain_seconds: must be a number of seconds, 0 or more.",
                "server.head_seconds: must be a number of seconds greater than 0.",
                "server.keep_alive_seconds: must be a number of seconds greater than 0.",
                "server.head_bytes: must be at least 1024 bytes",
                "server.max_connections: must be at least 1.",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_place(text: str, errors: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as raised:
        read(text, tmp_path)
    said = [str(error) for error in raised.value.errors]
    for sentence in errors:
        assert any(sentence in each for each in said), said
    if len(errors) > 3:
        assert len(said) == len(errors)


def test_a_key_stands_alone_and_a_team_needs_its_organisation(tmp_path: Path) -> None:
    rules = "[{dns: a, key: k, team: t}, {dns: a, team: t}]"
    with pytest.raises(ConfigErrors) as raised:
        read(f"tls: {{{TLS}, client_ca: a, principals: {rules}}}", tmp_path)
    assert [error.path for error in raised.value.errors] == [
        "server.tls.principals[0].key",
        "server.tls.principals[1]",
    ]


def test_listeners_that_do_not_meet_are_fine(tmp_path: Path) -> None:
    server = read(
        f"{KEY}, port: 1, admin: {{port: 1, host: 127.0.0.2}}, metrics: {{unix: m.sock}}", tmp_path
    )
    assert server.admin is not None
    assert read(f"{KEY}, port: 0, admin: {{port: 0}}", tmp_path).port == 0


def test_paths_are_relative_to_the_configuration(tmp_path: Path) -> None:
    server = read(
        f"{KEY}, unix: a.sock, tls: {{{TLS}}},"
        f" metrics: {{unix: m.sock, tls: {{{TLS}, client_ca: ca.pem}}}}",
        tmp_path,
    )
    assert server.tls is not None
    assert server.metrics is not None
    assert server.metrics.tls is not None
    assert server.unix == str(tmp_path / "a.sock")
    assert server.metrics.unix == str(tmp_path / "m.sock")
    assert (server.tls.certificate, server.tls.client_ca) == (str(tmp_path / "c.pem"), "")
    assert server.metrics.tls.client_ca == str(tmp_path / "ca.pem")


def test_secrets_come_from_files_or_the_environment_and_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("sesame\n")
    server = read(
        "admin_key: '${KEY}', tls: {certificate: c, key: k, key_password: 'file:password'}",
        tmp_path,
    )
    assert server.tls is not None
    assert (server.admin_key, server.tls.key_password) == ("x" * 20, "sesame")
    assert "xxx" not in repr(server)
    assert "sesame" not in repr(server) + repr(server.tls)
    (tmp_path / "admin").write_text("y" * 20)
    assert read("admin_key: 'file:admin'", tmp_path).admin_key == "y" * 20
