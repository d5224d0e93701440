"""What examples/ shows runs, and the documentation shows the same."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {"OPENAI_API_KEY": "sk-none"}
QUESTION = "What is the capital of France?"


def run(*words: str, cwd: Path, **environment: str) -> str:
    """What `python3 WORDS` prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def paths(repository: Path, *further: Path) -> str:
    return os.pathsep.join([*map(str, further), str(repository), *filter(None, sys.path)])


def test_the_sample_configuration_is_valid(repository: Path, tmp_path: Path) -> None:
    file = str(repository / "examples" / "llmgw.yaml")
    where = {"cwd": tmp_path, "PYTHONPATH": paths(repository)}
    said = run("-m", "llmgw_server", "check", "--config", file, **where, **SECRETS)  # type: ignore[arg-type]
    assert "house-model" in said or "2 models" in said


async def test_the_embedding_program_streams_an_answer_and_says_what_it_cost(
    repository: Path, tmp_path: Path
) -> None:
    examples = repository / "examples"
    text = (examples / "llmgw.yaml").read_text(encoding="utf-8")
    async with ModelServer() as server:
        config = tmp_path / "llmgw.yaml"
        config.write_text(re.sub(r"127\.0\.0\.1:800\d", f"127.0.0.1:{server.port}", text))
        for _ in range(2):  # the second time, the organisation is there already
            words = (str(examples / "embed.py"), "llmgw.yaml", "house-model", QUESTION)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *words,
                cwd=tmp_path,
                env={**os.environ, **SECRETS, "PYTHONPATH": paths(repository)},
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
            assert output.decode() == "Hello there\n7 + 3 tokens, 0.000001300 USD\n"
            assert process.returncode == 0
    assert [body["messages"][0]["content"] for body in server.bodies] == [QUESTION] * 2


def test_the_example_of_a_plugin_can_be_installed_enabled_and_tested(
    repository: Path, tmp_path: Path
) -> None:
    example, site = repository / "examples" / "llmgw-curfew", tmp_path / "site"
    options = ["-q", "--disable-pip-version-check", "--no-build-isolation", "--no-deps"]
    run("-m", "pip", "install", *options, "--target", str(site), str(example), cwd=tmp_path)
    places = paths(repository, site)
    config = tmp_path / "llmgw.yaml"
    config.write_text("plugins:\n  - name: curfew\n    config: {model: big-model, until: 7}\n")
    listed = run(
        *("-m", "llmgw_server", "plugins", "--config", str(config)), cwd=tmp_path, PYTHONPATH=places
    )
    assert re.search(r"\bcurfew\b.*\bllmgw-curfew\b.*\bauthorize\b", listed)
    tested = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-cov", str(example / "tests")),
        cwd=repository,
        PYTHONPATH=places,
    )
    assert "2 passed" in tested


def test_the_how_to_shows_the_plugin_as_it_is(repository: Path) -> None:
    page = (repository / "docs" / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")
    example = repository / "examples" / "llmgw-curfew"
    shown = ["src/llmgw_curfew/__init__.py", "tests/test_curfew.py", "pyproject.toml"]
    for file in shown:
        assert f"\n{(example / file).read_text(encoding='utf-8')}```" in page, file
