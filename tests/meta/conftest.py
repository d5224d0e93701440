"""What the rules about the code look at: the files of the repository, as git sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def files(repository: Path) -> list[Path]:
    """Every file that is or could be committed: ignored ones are nobody's business."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=repository,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := repository / name).is_file()]


@pytest.fixture(scope="session")
def modules(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix == ".py"]


@pytest.fixture(scope="session")
def plugin_names(repository: Path) -> list[str]:
    """`openai` for plugins/llmgw-openai."""
    found = repository.glob("plugins/llmgw-*/pyproject.toml")
    return sorted(path.parent.name.removeprefix("llmgw-") for path in found)
