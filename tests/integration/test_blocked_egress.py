"""A gateway in a network namespace that only a real forward proxy leads out of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from llmgw_core.testing.model_server import JSON, SSE, chat_events, completion
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head, http_reply
from llmgw_server.cli.sources import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).parent / "egress"
ROOT = Path(__file__).parents[2]
PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
UNSET = {source.variable for source in PROVIDERS} | {"OPENAI_BASE_URL", "no_proxy", "NO_PROXY"}
SECRET = "sk-of-the-provider"
PATIENCE = 60.0
RELAY = "3128"


def models(*names: str) -> Any:
    """A script that lists `names` and answers chats, streamed or not."""
    listing = json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.target == "/v1/models":
                await peer.send(http_reply(200, listing, JSON))
            elif json.loads(request.body).get("stream"):
                pieces = b"".join(map(chunk, (*chat_events(), b"")))
                await peer.send(chunked_head(200, SSE) + pieces)
            else:
                await peer.send(http_reply(200, json.dumps(completion()).encode(), JSON))

    return script


@contextlib.asynccontextmanager
async def program(*words: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    base = {name: value for name, value in os.environ.items() if name not in UNSET}
    process = await asyncio.create_subprocess_exec(
        *words,
        env={**base, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def until(process: asyncio.subprocess.Process, pattern: str) -> str:
    """What it prints until a line matches."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            text += line
            if re.search(pattern, line):
                return text
    raise AssertionError(f"ended without {pattern!r}: {text}")


@contextlib.asynccontextmanager
async def proxy(path: Path) -> AsyncIterator[None]:
    """The forward proxy, on a Unix socket: those cross the border of a network namespace."""
    words = ("--unix-socket-path", str(path), "--basic-auth", "gateway:hush", "--log-level", "e")
    few = ("--num-workers", "1", "--num-acceptors", "1", "--plugins", "proxy_names.Names")
    path_with_plugin = os.pathsep.join([str(HERE), PYTHONPATH])
    async with program(
        sys.executable, "-m", "proxy", *words, *few, PYTHONPATH=path_with_plugin
    ) as process:
        async with asyncio.timeout(PATIENCE):
            while not await _answers(path):
                assert process.returncode is None, "the proxy has ended"
                await asyncio.sleep(0.02)
        yield


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def isolated(directory: Path, forbidden: int, *words: str) -> list[str]:
    """The command line for `llmgw-server WORDS` in a namespace of its own."""
    unshare = shutil.which("unshare")
    assert unshare is not None, "this test needs `unshare` (util-linux)"
    flags = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
    inside = [sys.executable, str(HERE / "inside.py"), str(directory / "proxy.sock"), RELAY]
    gateway = [sys.executable, "-m", "llmgw_server", *words]
    return [unshare, *flags, *inside, str(forbidden), *gateway]


async def post(path: Path, key: str, **body: Any) -> tuple[int, bytes]:
    """A chat over the gateway's Unix socket."""
    content = json.dumps({"messages": [{"role": "user", "content": "hi"}], **body}).encode()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\nauthorization: Bearer %s\r\n\r\n"
        % (len(content), key.encode())
        + content
    )
    async with asyncio.timeout(PATIENCE):
        reply = await reader.read()
    writer.close()
    return int(reply.split(b" ", 2)[1]), reply


async def test_chat_streams_and_discovery_work_where_only_a_proxy_leads_out(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("provider.test").configure_cert(context)
    config = tmp_path / "llmgw.yaml"
    async with (
        Upstream(models("large"), ssl_context=context) as provider,
        Upstream(models("small")) as engine,
        proxy(tmp_path / "proxy.sock"),
    ):
        variables = {
            "https_proxy": f"http://gateway:hush@127.0.0.1:{RELAY}",
            "http_proxy": f"http://gateway:hush@127.0.0.1:{RELAY}",
            "OPENAI_API_KEY": SECRET,
            "OPENAI_BASE_URL": f"https://provider.test:{provider.port}/v1",
            "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        }
        where = f"http://engine.test:{engine.port}/v1"
        words = ("serve", "--config", str(config), "--discover", "--engine", where)
        async with program(*isolated(tmp_path, engine.port, *words), **variables) as process:
            text = await until(process, "ready at|not permitted")
        if "not permitted" in text:
            pytest.fail(f"this machine permits no network namespaces: {text.strip()}")
        assert "egress is blocked" in text
        assert text.count(": 1 model") == 2
        written = config.read_text()
        assert "proxy: environment" in written
        assert "hush" not in written

        config.write_text(written.replace('host: "127.0.0.1"', "unix: gateway.sock"))
        key = (tmp_path / "llmgw-api.key").read_text().strip()
        checked = ("check", "--connect", "--config", str(config))
        async with program(*isolated(tmp_path, engine.port, *checked), **variables) as process:
            text = await until(process, "small.*answers and has")
            text += await until(process, "large.*answers and has")
        plain = ("serve", "--config", str(config))
        async with program(*isolated(tmp_path, engine.port, *plain), **variables) as process:
            text = await until(process, "ready at")
            for model in ("large", "small"):
                status, reply = await post(tmp_path / "gateway.sock", key, model=model)
                assert (status, b"Hello there" in reply) == (200, True), reply
                status, reply = await post(tmp_path / "gateway.sock", key, model=model, stream=True)
                assert (status, b"data: [DONE]" in reply) == (200, True), reply
        assert "hush" not in text
    asked = [request.header(b"authorization") for request in provider.requests]
    assert asked == [f"Bearer {SECRET}".encode()] * 4
    assert len(engine.requests) == 4
