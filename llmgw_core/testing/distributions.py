"""Installed distributions that do not exist: real `dist-info` directories with entry points and
modules, in a directory that is put on `sys.path`. What `importlib.metadata` finds is real."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType


class Distributions:
    """`with Distributions(tmp_path) as installed: installed.add("llmgw-x", ...)`. On leaving,
    `sys.path` is as it was and the modules are forgotten."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._modules: set[str] = set()

    def __enter__(self) -> Distributions:
        self.directory.mkdir(parents=True, exist_ok=True)
        sys.path.insert(0, str(self.directory))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.path.remove(str(self.directory))
        for module in self._modules:
            sys.modules.pop(module, None)
        importlib.invalidate_caches()

    def add(
        self,
        distribution: str,
        *,
        plugins: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> None:
        """Install `distribution`. `plugins`: name → `module:Class`, as in an entry point of the
        group `llmgw`; `modules`: module name → its source."""
        stem = distribution.replace("-", "_")
        info = self.directory / f"{stem}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        lines = "".join(f"{name} = {target}\n" for name, target in plugins.items())
        (info / "entry_points.txt").write_text(f"[llmgw]\n{lines}")
        for module, source in (modules or {}).items():
            (self.directory / f"{module}.py").write_text(source)
            self._modules.add(module)
        importlib.invalidate_caches()
