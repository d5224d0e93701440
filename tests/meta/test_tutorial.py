"""What the tutorial says is done, in its order, with a test's model in place of the demo's."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from typing import TYPE_CHECKING

from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.model_server import ModelServer
from llmgw_server.cli.demo import ORGANIZATION_NAME, TEAM_NAME, USER_NAME
from llmgw_server.cli.demo_text import CHAT_MODEL

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIGURATION = """
server: {{port: 0}}
plugins: [{{name: openai}}]
models:
  {model}:
    prices: [{{from: 2026-01-01, cost: {{input: 10, output: 30}}}}]
    deployments:
      - name: local
        backend: openai
        zone: onprem
        options: {{base_url: "http://127.0.0.1:{port}/v1"}}
"""


async def tenant(database: Path) -> str:
    """What the demo makes at its first start; the key."""
    store = Store(f"sqlite:///{database}")
    await store.open()
    tenancy = Tenancy(store)
    await tenancy.create_organization(ORGANIZATION_NAME, models=["*"], actor="test")
    await tenancy.create_team(ORGANIZATION_NAME, TEAM_NAME, actor="test")
    await tenancy.create_user(ORGANIZATION_NAME, USER_NAME, actor="test")
    await tenancy.add_membership(TEAM_NAME, USER_NAME, actor="test")
    _, key = await tenancy.create_key(team=TEAM_NAME, user=USER_NAME, actor="test")
    await store.aclose()
    return key


async def started(*words: str, cwd: Path, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *words,
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def prints(*words: str, cwd: Path, **environment: str) -> str:
    process = await started(*words, cwd=cwd, **environment)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_tutorial_from_the_first_question_to_the_last(
    repository: Path, tmp_path: Path
) -> None:
    page = (repository / "docs" / "tutorial" / "first-ten-minutes.md").read_text(encoding="utf-8")
    shell = [body for name, body in BLOCK.findall(page) if name == "bash"]
    client, embedded = (body for name, body in BLOCK.findall(page) if name == "python")
    [curl] = [body for body in shell if body.startswith("curl")]
    [usage] = [body for body in shell if " usage " in body]
    assert [body for body in shell if body == ".nox/demo/bin/python ask.py\n"]
    demo = tmp_path / "llmgw-demo"
    demo.mkdir()
    key = await tenant(demo / "llmgw.db")
    python = {"PYTHONPATH": os.pathsep.join([str(repository), *filter(None, sys.path)])}
    async with ModelServer() as server:
        text = CONFIGURATION.format(model=CHAT_MODEL, port=server.port)
        (demo / "llmgw.yaml").write_text(text)
        command = (sys.executable, "-m", "llmgw_server", "serve", "--config", "llmgw.yaml")
        gateway = await started(*command, cwd=demo, **python)
        assert gateway.stdout is not None
        address = ""
        while not address:
            line = (await gateway.stdout.readline()).decode()
            assert line, "the server has ended"
            address = "".join(re.findall(r"127\.0\.0\.1:\d+", line))
        # With Content-Type and key as the page has them; the shell is real.
        asked = curl.replace("127.0.0.1:4000", address)
        assert "Hello there" in await prints("sh", "-c", asked, cwd=tmp_path, LLMGW_KEY=key)
        asked = client.replace("127.0.0.1:4000", address).replace("YOUR-KEY", key)
        assert await prints(sys.executable, "-c", asked, cwd=tmp_path) == "Hello there\n"
        gateway.terminate()
        await gateway.wait()
        said = await prints(sys.executable, "-c", embedded, cwd=tmp_path, **python)
        assert said == "Hello there\n3 tokens, 0.000160000 USD\n"
    words = shlex.split(usage)[1:]
    table = await prints(sys.executable, "-m", "llmgw_server", *words, cwd=tmp_path, **python)
    assert re.search(rf"demo\s.*{CHAT_MODEL}\D+3\b", table), table
