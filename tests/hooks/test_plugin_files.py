"""Plugins of one file, named by path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.load import parse
from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.host import PluginHost
from llmgw_core.testing.plugins import contexts_in

if TYPE_CHECKING:
    from llmgw_core.domain.call import Call

ONE = """
from __future__ import annotations
import dataclasses
import msgspec
from llmgw_core import PluginContext, hookimpl

@dataclasses.dataclass
class Note:
    text: str

class Sentence:
    class Config(msgspec.Struct, frozen=True):
        text: str = "No."

    def __init__(self, config: Config, context: PluginContext) -> None:
        self.note = Note(config.text)

    @hookimpl
    def authorize(self) -> str:
        return self.note.text
"""
TWO = (
    ONE
    + """
class Another(Sentence):
    pass
"""
)


def load(
    tmp_path: Path, path: str, *, reuse: PluginHost | None = None, **config: Any
) -> PluginHost:
    return PluginHost.load(
        [PluginConfig("mine", config, path=str(tmp_path / path))],
        context_for=contexts_in(tmp_path / "data"),
        reuse=reuse,
    )


def refusal(tmp_path: Path, path: str, source: str | None = None) -> str:
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, path)
    return str(caught.value).replace(str(tmp_path), "DIR")


def test_the_one_plugin_of_a_file_needs_no_name(tmp_path: Path, call: Call) -> None:
    (tmp_path / "mine.py").write_text(ONE)
    before = list(sys.path)
    host = load(tmp_path, "mine.py", text="Not now.")
    assert host.run_authorize(call, "m") == "Not now."
    assert (sys.path, "mine" in sys.modules) == (before, False)
    assert host.describe()[0].path == str(tmp_path / "mine.py")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


def test_one_of_several_is_chosen_by_name(tmp_path: Path, call: Call) -> None:
    (tmp_path / "mine.py").write_text(TWO)
    assert load(tmp_path, "mine.py:Another", text="Chosen").run_authorize(call, "m") == "Chosen"


def test_the_path_is_relative_to_the_configuration(tmp_path: Path) -> None:
    config = parse("plugins: [{name: a, path: sub/x.py}]", base_dir=tmp_path, env={})
    assert config.plugins[0].path == str(tmp_path / "sub" / "x.py")


def test_files_of_one_name_do_not_meet(tmp_path: Path, call: Call) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "json.py").write_text(ONE.replace("No.", place))
    hosts = [load(tmp_path, f"{place}/json.py") for place in ("one", "two")]
    assert [host.run_authorize(call, "m") for host in hosts] == ["one", "two"]
    import json

    assert json.loads("1") == 1


def test_a_file_that_has_not_changed_is_the_same_plugin_and_one_that_has_is_not(
    tmp_path: Path, call: Call
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ONE)
    first = load(tmp_path, "mine.py")
    second = load(tmp_path, "mine.py", reuse=first)
    assert second.plugins[0] is first.plugins[0]
    file.write_text(ONE.replace("No.", "Yes."))
    third = load(tmp_path, "mine.py", reuse=second)
    assert third.run_authorize(call, "m") == "Yes."
    assert second.run_authorize(call, "m") == "No."


@pytest.mark.parametrize(
    ("path", "source", "sentence"),
    [
        ("absent.py", None, "DIR/absent.py cannot be read: No such file or directory."),
        ("mine.py", "x = 1\ndef (", "DIR/mine.py, line 2: SyntaxError: invalid syntax."),
        ("mine.py", "\n\n1/0", "DIR/mine.py, line 3: ZeroDivisionError: division by zero."),
        ("mine.py", "def f():\n    raise SystemExit\nf()", "DIR/mine.py, line 2: SystemExit."),
        (
            "mine.py",
            "import re\nre.compile('(')",
            "DIR/mine.py, line 2: error: missing ), unterminated subpattern at position 0.",
        ),
        (
            "mine.py",
            "import a_module_that_is_not_there",
            (
                "DIR/mine.py, line 1: the module `a_module_that_is_not_there` is missing or"
                " incomplete (No module named 'a_module_that_is_not_there'); install what the file"
                " imports beside the gateway."
            ),
        ),
        ("mine.py", "x = 1", "DIR/mine.py has no class with a method marked `@hookimpl`."),
        (
            "mine.py",
            TWO,
            (
                "DIR/mine.py has several plugins: `Another`, `Sentence`; say which one:"
                " `path: mine.py:Another`."
            ),
        ),
        (
            "mine.py:Sentense",
            TWO,
            (
                "DIR/mine.py has no class `Sentense` with a method marked `@hookimpl`; did you"
                " mean `Sentence`?"
            ),
        ),
        (
            "mine.py:Zzz",
            ONE,
            (
                "DIR/mine.py has no class `Zzz` with a method marked `@hookimpl`; there are"
                " `Sentence`."
            ),
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    tmp_path: Path, path: str, source: str | None, sentence: str
) -> None:
    assert refusal(tmp_path, path, source) == f"plugins[0].path: the plugin `mine`: {sentence}"


def test_a_file_that_failed_is_tried_again(tmp_path: Path, call: Call) -> None:
    refusal(tmp_path, "mine.py", "1/0")
    (tmp_path / "mine.py").write_text(ONE)
    assert load(tmp_path, "mine.py").run_authorize(call, "m") == "No."


def test_an_interrupt_while_a_file_is_loaded_passes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, "mine.py")


def test_the_lines_of_the_file_are_in_tracebacks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ONE.replace("self.note = ", "self.note = None.x  # "))
    with pytest.raises(ConfigError, match="the plugin `mine` failed in `__init__`") as caught:
        load(tmp_path, "mine.py")
    cause = caught.value.__cause__
    assert cause is not None
    assert cause.__traceback__ is not None
    last = cause.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    assert Path(last.tb_frame.f_code.co_filename) == tmp_path / "mine.py"
