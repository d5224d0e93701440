"""Every hook is documented with its exact signature and what its failure means, and the guide to
plugins shows plugins that run."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_core.hooks.foreign import FIXED_POLICY
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.specs import HOOK_KINDS, REVERSED, GatewayHooks

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = re.compile(r'^```python title="([\w.]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
KINDS = {"START", "FOLD", "FIRST", "ALL", "OBSERVE"}


@pytest.fixture(scope="module")
def reference(repository: Path) -> str:
    """The generated page, made by the code that makes the documentation."""
    return subprocess.run(
        [sys.executable, "-c", "import generate; print(generate.hooks())"],
        cwd=repository / "docs",
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("hook", HOOK_KINDS)
def test_a_hook_has_a_signature_a_text_and_a_failure_in_the_reference(
    reference: str, hook: str
) -> None:
    section = re.split(r"^## ", reference, flags=re.MULTILINE)
    [text] = [part for part in section if part.startswith(f"{hook}\n")]
    function = getattr(GatewayHooks, hook)
    names = list(inspect.signature(function).parameters)
    arguments = ", ".join(rf"{name}[^,]*" for name in names)
    assert re.search(rf"^    (async )?def {hook}\({arguments}\) -> ", text, re.MULTILINE)
    assert (inspect.getdoc(function) or "") in text
    assert f"Kind: {HOOK_KINDS[hook]}, " in text
    assert ("from the last plugin to the first" in text) == (hook in REVERSED)
    assert "When it fails: " in text
    assert HOOK_KINDS[hook] in KINDS
    assert (HOOK_KINDS[hook] in {"START", "OBSERVE", "ALL"}) == (hook in FIXED_POLICY)


def test_every_hook_is_specified_and_every_observer_can_be_told() -> None:
    specified = {name for name in vars(GatewayHooks) if not name.startswith("_")}
    assert specified == set(HOOK_KINDS)
    observers = [hook for hook, kind in HOOK_KINDS.items() if kind == "OBSERVE"]
    assert all(hasattr(PluginHost, hook.replace("on_", "observe_")) for hook in observers)


def test_the_plugins_of_the_guide_run_and_pass_their_own_test(
    repository: Path, tmp_path: Path
) -> None:
    page = (repository / "docs" / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")
    blocks = dict(BLOCK.findall(page))
    assert set(blocks) == {"house_rules.py", "first_come.py", "test_house_rules.py"}
    for name, text in blocks.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "llmgw.yaml").write_text(
        "plugins:\n  - {name: house, path: house_rules.py}\n"
        "  - {name: first-come, path: first_come.py}\nrouting: {balancer: in_order}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    words = ("-m", "llmgw_server", "plugins", "--config", "llmgw.yaml")
    options = ("-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto")
    for command in (words, ("-m", "pytest", *options, "test_house_rules.py")):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert (tmp_path / "llmgw-data").exists() is False
