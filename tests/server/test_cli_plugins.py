"""`llmgw-server plugins`: from the configuration, and from a gateway that runs."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from llmgw_core.gateway import Gateway
from llmgw_core.testing.client import Client
from llmgw_server.app import create_app
from llmgw_server.cli import main

from .conftest import running

if TYPE_CHECKING:
    from pathlib import Path

KEY = "an-admin-key-of-24-bytes"
PLUGIN = """
from llmgw_core import hookimpl

class Plugin:
    def __init__(self, config, context):
        pass

    @hookimpl
    def pre_auth(self):
        raise ValueError

    @hookimpl
    def on_usage(self):
        pass
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    file = tmp_path / "llmgw.yaml"
    file.write_text(f"plugins: [{{name: broken, path: mine.py}}]\nserver: {{admin_key: '{KEY}'}}\n")
    return file


def test_a_plugin_of_a_file_is_listed_with_its_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "--config", str(config)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == ["1", "broken", "mine.py", "-", "pre_auth,on_usage"]


async def test_a_running_gateway_tells_times_and_failures(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    async with (
        Gateway.open(config) as gateway,
        running(create_app(gateway), "hypercorn") as server,
    ):
        assert (await Client(gateway, "x").chat("m")).status == 500
        asked = ["plugins", "--config", str(config), "--url", f"http://127.0.0.1:{server.port}"]
        assert await asyncio.to_thread(main, asked) == 0
        plugins, _, hooks = capsys.readouterr().out.partition("\n\n")
        with_file = [*asked, "--json", "--config", "absent.yaml", "--admin-key-file", str(key)]
        assert await asyncio.to_thread(main, with_file) == 0
        (row,) = json.loads(capsys.readouterr().out)
        key.write_text("another-key-of-some-length")
        assert await asyncio.to_thread(main, with_file) == 1
        assert "does not accept this admin key" in capsys.readouterr().err
    assert plugins.splitlines()[1].split() == ["1", "broken", "mine.py", "-", "started", "0"]
    line = hooks.splitlines()[1].split()
    assert line[:6] == ["broken", "pre_auth", "1", "1", "0", "0"]
    assert float(line[6]) == float(line[7]) > 0
    assert (row["calls"], row["failures"], row["hooks"]) == (1, 1, ["pre_auth", "on_usage"])
    assert row["details"][0]["hook"] == "pre_auth"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://x", "'ftp://x' is no URL of a gateway; write http://HOST:PORT."),
        ("http://127.0.0.1:1", "The gateway at http://127.0.0.1:1 does not answer: "),
        ("http://127.0.0.1:x", "The gateway at http://127.0.0.1:x does not answer: "),
    ],
)
def test_a_gateway_that_cannot_be_asked_is_said(
    config: Path, url: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "--config", str(config), "--url", url]) == 1
    assert sentence in capsys.readouterr().err


def test_without_an_admin_key_the_remedy_is_said(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plugins", "--config", str(config), "--url", "http://127.0.0.1:1"]
    assert main([*asked, "--admin-key-file", str(tmp_path / "absent")]) == 1
    assert "The admin key cannot be read" in capsys.readouterr().err
    config.write_text("{}")
    assert main(asked) == 1
    assert "--admin-key-file FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, b"", "answers 404: are its admin pages there"),
        (200, b"<html>", "is no gateway of this version"),
        (200, b'{"data": [{"name": 1}]}', "is no gateway of this version"),
    ],
)
async def test_what_is_no_gateway_is_said(
    config: Path, status: int, body: bytes, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        asked = ["plugins", "--config", str(config), "--url", f"http://127.0.0.1:{port}"]
        assert await asyncio.to_thread(main, asked) == 1
    assert sentence in capsys.readouterr().err
