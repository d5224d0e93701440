"""The kit for tests of plugins leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import llmgw_core
from llmgw_core.testing.distributions import Distributions


def test_made_up_distributions_are_found_and_gone_afterwards(tmp_path: Path) -> None:
    before = list(sys.path)
    with Distributions(tmp_path / "site") as installed:
        installed.add(
            "llmgw-made-up",
            plugins={"made-up": "made_up_plugin:X"},
            modules={"made_up_plugin": "X = 1"},
            version="2.5",
        )
        (entry,) = importlib.metadata.entry_points(group="llmgw", name="made-up")
        assert entry.load() == 1
        assert entry.dist is not None
        assert (entry.dist.name, entry.dist.version) == ("llmgw-made-up", "2.5")
    assert sys.path == before
    assert "made_up_plugin" not in sys.modules
    assert not importlib.metadata.entry_points(group="llmgw", name="made-up")


def test_config_and_hooks_import_nothing_heavy() -> None:
    code = (
        "import sys, llmgw_core.config.load, llmgw_core.config.build, llmgw_core.hooks.host,"
        " llmgw_core.hooks.context;"
        "print(sorted({'aiohttp', 'sqlalchemy', 'alembic', 'starlette'} & set(sys.modules)))"
    )
    root = Path(llmgw_core.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
