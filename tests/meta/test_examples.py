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


async def program(repository: Path, name: str, *words: str, cwd: Path) -> tuple[int, str]:
    """Exit status and output of `examples/NAME`, while this process serves a model to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", str(repository / "examples" / name), *words),
        cwd=cwd,
        env={**os.environ, **SECRETS, "PYTHONPATH": paths(repository)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def sample(repository: Path, directory: Path, server: ModelServer) -> Path:
    """The sample configuration, with `server` for an engine and a log of its own."""
    text = (repository / "examples" / "llmgw.yaml").read_text(encoding="utf-8")
    text = text.replace("output: stderr", "output: calls.log")
    config = directory / "llmgw.yaml"
    config.write_text(re.sub(r"127\.0\.0\.1:800\d", f"127.0.0.1:{server.port}", text))
    return config


async def test_the_embedding_program_streams_an_answer_and_says_what_it_cost(
    repository: Path, tmp_path: Path
) -> None:
    async with ModelServer() as server:
        sample(repository, tmp_path, server)
        for _ in range(2):  # the second time, the books are there already
            words = ("llmgw.yaml", "house-model", QUESTION)
            done = await program(repository, "embed.py", *words, cwd=tmp_path)
            assert done == (0, "Hello there\n7 + 3 tokens, 0.000001300 USD\n")
        words = ("llmgw.yaml", "gpt-4o-mini", QUESTION)
        status, said = await program(repository, "embed.py", *words, cwd=tmp_path)
        assert (status, "404 model_not_found, req_" in said) == (1, True)
    assert [body["messages"][0]["content"] for body in server.bodies] == [QUESTION] * 2


async def test_the_official_client_runs_over_a_gateway_in_the_same_program(
    repository: Path, tmp_path: Path
) -> None:
    async with ModelServer() as server:
        sample(repository, tmp_path, server)
        words = ("llmgw.yaml", "house-model", QUESTION)
        done = await program(repository, "openai_client.py", *words, cwd=tmp_path)
    assert done == (0, "Hello there\n")
    assert [body["messages"][0]["content"] for body in server.bodies] == [QUESTION]


async def test_a_program_may_hold_its_configuration_and_a_plugin(
    repository: Path, tmp_path: Path
) -> None:
    async with ModelServer() as server:
        words = (f"http://127.0.0.1:{server.port}/v1", QUESTION, "And of Spain?")
        done = await program(repository, "in_python.py", *words, cwd=tmp_path)
    assert done == (0, "Hello there (0.000000650 EUR)\n" * 2)
    assert [body["max_tokens"] for body in server.bodies] == [20, 20]


async def test_the_plugin_in_one_file_is_taken_by_its_path(
    repository: Path, tmp_path: Path
) -> None:
    async with ModelServer() as server:
        config = sample(repository, tmp_path, server)
        source = (repository / "examples" / "mask_emails.py").read_text(encoding="utf-8")
        (tmp_path / "mask_emails.py").write_text(source)
        [section] = re.findall(
            r"^plugins:\n(  - name: mask-emails\n(?:    .*\n)+)", source, re.MULTILINE
        )
        text = config.read_text().replace("plugins:\n", f"plugins:\n{section}")
        config.write_text(text)
        question = "Write to anna.b+x@mail.example, or not."
        words = ("llmgw.yaml", "house-model", question)
        status, said = await program(repository, "embed.py", *words, cwd=tmp_path)
        assert (status, said.splitlines()[0]) == (0, "Hello there")
    [body] = server.bodies
    assert body["messages"][0]["content"] == "Write to (address), or not."


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
