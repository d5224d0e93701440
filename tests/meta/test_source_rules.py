"""Rules about the code that no linter knows."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_MODULE = 400
VAGUE = {"utils", "helpers", "misc", "common"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imported(path: Path) -> set[str]:
    """The dotted names of all modules that `path` imports, type-only imports included."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _docstrings(tree: ast.Module) -> set[int]:
    """The identities of constants that are expressions of their own: they name nothing."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _words(path: Path) -> set[str]:
    """Identifiers and whole string literals of a module, without its docstrings."""
    tree = _tree(path)
    skipped = _docstrings(tree)
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.Constant) and id(node) not in skipped:
            words.add(str(node.value))
    return words


def test_no_module_is_longer_than_a_screenful_of_screens(modules: list[Path]) -> None:
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    too_long = {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE}
    assert not too_long


def test_every_module_of_the_packages_says_its_rule(modules: list[Path], repository: Path) -> None:
    shipped = [
        path
        for path in modules
        if path.relative_to(repository).parts[0] in {"llmgw_core", "llmgw_server"}
        or "src" in path.parts
    ]
    assert shipped
    assert not [str(path) for path in shipped if not ast.get_docstring(_tree(path))]


def test_no_module_is_named_for_nothing_in_particular(modules: list[Path]) -> None:
    assert not [str(path) for path in modules if {path.stem, path.parent.name} & VAGUE]


def test_the_core_names_no_plugin(
    modules: list[Path], repository: Path, plugin_names: list[str]
) -> None:
    core = [path for path in modules if path.is_relative_to(repository / "llmgw_core")]
    assert core
    packages = re.compile("|".join(rf"llmgw[-_]{name}\b" for name in plugin_names) or "(?!)")
    found = [
        str(path)
        for path in core
        if packages.search(path.read_text(encoding="utf-8")) or _words(path) & set(plugin_names)
    ]
    assert not found


def test_plugins_know_the_core_and_nothing_else_of_this_repository(
    modules: list[Path], repository: Path, plugin_names: list[str]
) -> None:
    for name in plugin_names:
        source = repository / "plugins" / f"llmgw-{name}" / "src"
        others = {"llmgw_server", *(f"llmgw_{other}" for other in plugin_names if other != name)}
        for path in modules:
            if path.is_relative_to(source):
                roots = {imported.split(".")[0] for imported in _imported(path)}
                assert not roots & others, path


def test_test_directories_are_no_packages_and_their_files_have_unique_names(
    modules: list[Path],
) -> None:
    tests = [path for path in modules if "tests" in path.parts]
    assert not [str(path) for path in tests if path.name == "__init__.py"]
    names = [path.name for path in tests if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_only_the_edge_of_the_pipeline_catches_everything(
    modules: list[Path], repository: Path
) -> None:
    def catches_everything(handler: ast.ExceptHandler) -> bool:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        broad = any(
            kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds
        )
        reraises = any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)
        return broad and not reraises

    core = repository / "llmgw_core"
    found = [
        str(path.relative_to(core))
        for path in modules
        if path.is_relative_to(core) and not path.is_relative_to(core / "testing")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node)
    ]
    assert [path for path in found if not path.startswith(("pipeline/", "hooks/"))] == []
