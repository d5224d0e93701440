"""`import llmgw_core` is light, and what it offers is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llmgw_core

HEAVY = {"aiohttp", "aiosqlite", "alembic", "httptools", "sqlalchemy", "starlette", "yaml"}


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after `statement`."""
    program = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    return set(printed.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_after("import llmgw_core")
    assert "llmgw_core" in loaded
    assert not loaded & {*HEAVY, "msgspec", "pluggy"}


@pytest.mark.parametrize("name", ["Config", "GatewayError", "Head", "Principal", "hookimpl"])
def test_a_name_that_plugins_use_loads_no_database_and_no_http_client(name: str) -> None:
    loaded = loaded_after(f"from llmgw_core import {name}")
    assert not loaded & (HEAVY - {"yaml"})


def test_a_gateway_needs_neither_aiohttp_nor_alembic_nor_a_web_framework() -> None:
    assert not loaded_after("from llmgw_core import Gateway") & {"aiohttp", "alembic", "starlette"}


@pytest.mark.parametrize("name", llmgw_core.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(llmgw_core, name) is getattr(llmgw_core, name)
    assert name in dir(llmgw_core)


def test_type_checkers_and_the_interpreter_know_the_same_names() -> None:
    assert llmgw_core.__file__ is not None
    tree = ast.parse(Path(llmgw_core.__file__).read_text(encoding="utf-8"))
    [typing_only] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = [
        (alias.asname or alias.name, f"{node.module}.{alias.name}")
        for node in typing_only.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(name for name, _ in imported) == llmgw_core.__all__
    for name, path in imported:
        module, _, original = path.rpartition(".")
        assert getattr(llmgw_core, name) is getattr(sys.modules[module], original)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Gatway'"):
        llmgw_core.Gatway  # noqa: B018 -- the lookup itself raises
