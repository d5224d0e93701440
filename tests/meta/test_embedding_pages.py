"""The programs that the README and the page about embedding show run, as they are."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy
from llmgw_core.testing.model_server import ModelServer
from llmgw_core.testing.tenants import create_tenant

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = "docs/how-to/embed.md"
DJANGO = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = ""
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"])
import django
django.setup()
{view}
from django.test import RequestFactory
asked = RequestFactory().get("/", {{"user": "anna", "question": "Hello"}})
print(b"".join(answer(asked)).decode())
gateway().close()
"""


def blocks(repository: Path, page: str, language: str) -> list[tuple[str, str]]:
    """Titles and texts."""
    text = (repository / page).read_text(encoding="utf-8")
    return [(title.strip(), body) for name, title, body in BLOCK.findall(text) if name == language]


def shown(repository: Path, page: str) -> list[str]:
    """The programs of a page."""
    return [body for title, body in blocks(repository, page, "python") if not title]


async def prints(repository: Path, page: str, program: str, directory: Path) -> str:
    """What a program prints beside the page's configuration, whose engine is a test's."""
    [(_, config), *_] = blocks(repository, page, "yaml")
    store = Store(f"sqlite:///{directory / 'llmgw.db'}")
    await store.open()
    tenant = await create_tenant(store)
    await Tenancy(store).create_user("acme", "anna", actor="test")
    await store.aclose()
    async with ModelServer() as server:
        (directory / "llmgw.yaml").write_text(
            config.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", program),
            cwd=directory,
            env={**os.environ, "LLMGW_KEY": tenant.key, "OPENAI_API_KEY": "sk-none"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


SAID = [
    r"Hello there\nUsage\(input_tokens=7, .*\) 6\.50E-7 req_\w+\nstop\n",
    r"Hello there\nthe end of req_\w+\n",
    r"org_\w+ user_\w+\norg_\w+ user_\w+\nmy-shop guest-17\n",
    r"Hello there\nHello there\n\d calls in the books so far\n",
    r"Hello there\n",
]


@pytest.mark.parametrize("number", range(len(SAID)))
async def test_a_program_of_the_how_to_says_what_it_should(
    repository: Path, tmp_path: Path, number: int
) -> None:
    programs = shown(repository, PAGE)
    assert len(programs) == len(SAID)
    said = await prints(repository, PAGE, programs[number], tmp_path)
    assert re.fullmatch(SAID[number], said), said


async def test_the_program_of_the_readme_streams_an_answer(
    repository: Path, tmp_path: Path
) -> None:
    [program] = shown(repository, "README.md")
    said = await prints(repository, "README.md", program, tmp_path)
    assert said.startswith("Hello there")  # a line of the log follows
    assert said.splitlines()[-1] == "3 tokens, 0.000001300 USD"


async def test_the_view_of_the_how_to_works_in_django(repository: Path, tmp_path: Path) -> None:
    [view] = [body for title, body in blocks(repository, PAGE, "python") if title]
    assert await prints(repository, PAGE, DJANGO.format(view=view), tmp_path) == "Hello there\n"
