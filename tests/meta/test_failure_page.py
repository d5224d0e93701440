"""The page about failures shows every fault as it is, and its test runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.testing.faults.catalog import FAULTS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "how-to" / "try-out-failures.md").read_text(encoding="utf-8")


def test_the_table_is_the_catalogue(page: str) -> None:
    shown = re.findall(r"^\| `([\w-]+)` \| (.*) \| (\w+) \| (\w+) \|$", page, re.MULTILINE)
    there = [(each.name, each.summary, each.complete, each.stream) for each in FAULTS.values()]
    assert shown == there


async def test_the_test_that_is_shown_passes(page: str, tmp_path: Path) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    await test(tmp_path)
