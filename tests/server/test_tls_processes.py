"""TLS in whole processes, on the event loop that they run on: configuration, check, serve, end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest

from llmgw_server.cli import main

from .test_processes import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .conftest import Authority

CONFIG = """
server:
  port: 0
  tls:
    certificate: server.pem
    key: server.key
    client_ca: ca.pem
    principals: [{common_name: app, organization: acme}]
"""


@contextlib.asynccontextmanager
async def serving(
    directory: Path, kind: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llmgw_server", "serve", "--server", kind),
        cwd=directory,
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert "ready at http" in line, line
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_gateway_with_client_certificates_is_served_renewed_and_ended(
    kind: str, tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.issue("server")
    files = authority.issue("app", "app.example", common_name="app")
    config = tmp_path / "llmgw.yaml"
    config.write_text(CONFIG)
    for words in (["check"], ["orgs", "create", "acme"]):
        assert await asyncio.to_thread(main, [*words, "--config", str(config)]) == 0
    capsys.readouterr()
    async with serving(tmp_path, kind) as (process, url):
        context = authority.trusting(*files, alpn=("http/1.1",))
        async with httpx.AsyncClient(verify=context, base_url=url) as client:
            models = await client.get("/v1/models")
            assert (models.status_code, models.json()["data"]) == (200, [])
            before = await serial(url, authority, *files)
            authority.issue("server")
            async with asyncio.timeout(20):
                while await serial(url, authority, *files) == before:  # noqa: ASYNC110 -- no event
                    await asyncio.sleep(0.1)
            assert (await client.get("/v1/models")).status_code == 200  # the old connection
            with pytest.raises(httpx.TransportError):
                async with httpx.AsyncClient(verify=authority.trusting()) as stranger:
                    await stranger.get(f"{url}/v1/models")
        process.send_signal(signal.SIGTERM)
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert output.decode().splitlines()[-1] == "llmgw has ended."
        assert b"Traceback" not in output


async def serial(url: str, authority: Authority, *files: str) -> object:
    port = int(url.rpartition(":")[2])
    context = authority.trusting(*files)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_check_and_serve_say_what_is_wrong_with_a_certificate(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.issue("server")
    _, foreign = authority.issue("other")
    shutil.copy(foreign, tmp_path / "server.key")
    config = tmp_path / "llmgw.yaml"
    config.write_text(CONFIG)
    for command in ("check", "serve"):
        assert main([command, "--config", str(config)]) == 1
        assert "server.tls.key: " in capsys.readouterr().err
