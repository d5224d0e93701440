"""What the README and the documentation show is true: it is run, parsed and looked up."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.load import parse
from llmgw_core.hooks.specs import HOOK_KINDS
from llmgw_server import cli

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.fixture(scope="session")
def pages(repository: Path) -> dict[str, str]:
    found = [repository / "README.md", *repository.glob("docs/**/*.md")]
    found += repository.glob("plugins/*/README.md")
    found.append(repository / "examples" / "README.md")
    return {str(p.relative_to(repository)): p.read_text(encoding="utf-8") for p in found}


def _blocks(text: str, language: str) -> list[str]:
    return [body for name, body in BLOCK.findall(text) if name == language]


def test_yaml_examples_are_valid_configurations(pages: dict[str, str], tmp_path: Path) -> None:
    examples = [block for text in pages.values() for block in _blocks(text, "yaml")]
    assert examples
    for example in examples:
        env = dict.fromkeys(re.findall(r"\$\{(\w+)\}", example), "a secret of some length")
        for secret in re.findall(r"file:([\w./-]+)", example):
            (tmp_path / secret).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / secret).write_text("a secret of some length")
        parse(example, base_dir=tmp_path, env=env)


def test_command_lines_are_understood_by_the_program(pages: dict[str, str]) -> None:
    lines = [
        line
        for text in pages.values()
        for block in _blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("llmgw-server")
    ]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert words[0] in cli.COMMANDS, line
        cli._parser(words[0]).parse_args(words)


def test_nox_sessions_that_are_named_exist(pages: dict[str, str], repository: Path) -> None:
    named = {name for text in pages.values() for name in re.findall(r"nox -s (\w+)", text)}
    assert named >= {"demo", "tests"}
    noxfile = (repository / "noxfile.py").read_text(encoding="utf-8")
    assert named <= set(re.findall(r"^def (\w+)\(session", noxfile, re.MULTILINE))


def test_links_to_files_lead_somewhere(pages: dict[str, str], repository: Path) -> None:
    generated = {"configuration", "command-line", "hooks", "errors", "metrics"}
    for page, text in pages.items():
        for target in LINK.findall(text):
            path = (repository / page).parent / target
            known = path.parent.name == "reference" and path.stem in generated
            assert "://" in target or known or path.exists(), f"{page}: {target}"


def test_everything_is_found_from_a_list(pages: dict[str, str], repository: Path) -> None:
    listed = set(LINK.findall(pages["docs/index.md"]))
    assert {page.removeprefix("docs/") for page in pages if page.startswith("docs/")} <= {
        *listed,
        "index.md",
    }
    assert {path.name for path in repository.glob("examples/[!R_]*")} <= set(
        LINK.findall(pages["examples/README.md"])
    )
    contributing = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = repository.glob("llmgw_core/[!_]*/__init__.py")
    assert not [
        path for path in packages if f"`llmgw_core/{path.parent.name}/`" not in contributing
    ]


def test_the_first_screen_of_the_readme_says_what_it_is_and_how_to_try_it(
    pages: dict[str, str],
) -> None:
    first_screen = "\n".join(pages["README.md"].splitlines()[:36])
    assert "python3 -m pip install nox && python3 -m nox -s demo\n" in first_screen
    assert "python3 -m pip install nox && python3 -m nox -s tests\n" in first_screen
    assert "curl http://127.0.0.1:4000/v1/chat/completions" in first_screen


def test_the_how_to_of_plugins_and_the_specification_use_the_same_names(
    pages: dict[str, str],
) -> None:
    mentioned = set(re.findall(r"\((`\w+`)\)", pages["docs/explanation/path-of-a-call.md"]))
    assert {name.strip("`") for name in mentioned} <= set(HOOK_KINDS)
