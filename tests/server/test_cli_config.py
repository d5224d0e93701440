"""`check` and `config`: what is wrong, what holds, what was loaded, and the way back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llmgw_core.gateway import Gateway
from llmgw_server.cli import main

if TYPE_CHECKING:
    from pathlib import Path

ZERO = "accounting: {unpriced: zero}\n"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


PLUGIN = """
from llmgw_core import hookimpl
class P:
    def __init__(self, config, context): pass
    @hookimpl
    def startup(self): pass
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLMGW_CONFIG", raising=False)
    path = tmp_path / "llmgw.yaml"
    path.write_text(ZERO)
    return path


def test_every_error_is_printed_with_its_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("server: {prot: 1}\nplugins: [{name: nobody}, {name: x, timeout: 0}]\n")
    code, out, err = said(capsys, "check")
    assert code == 1
    first, *lines = err.splitlines()
    assert (out, first) == ("", "llmgw-server: llmgw.yaml has 4 errors.")
    assert [line.split(": ")[0] for line in lines] == [
        "llmgw.yaml:1:10",
        "llmgw.yaml:2:11",
        "llmgw.yaml:2:27",
        "llmgw.yaml:2:37",
    ]


@pytest.mark.parametrize(
    "section",
    [
        "proxy: 'http://h:99999'",
        "proxy: 'http://[::1'",
        "proxy: 'http://h:1', no_proxy: [10.0.0.0/99]",
    ],
)
def test_a_proxy_that_is_no_address_keeps_nothing_else_from_being_looked_at(
    file: Path, section: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(f"outgoing: {{{section}}}\nplugins: [{{name: nobody}}]\n")
    code, out, err = said(capsys, "check", "--connect")
    problem, other = err.splitlines()[1:]
    assert (code, out) == (1, "")
    assert problem.startswith("llmgw.yaml:1:")
    assert "outgoing." in problem
    assert other.startswith("llmgw.yaml:2:11: plugins[0]: ")


def test_errors_for_programs_have_their_parts(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("server:\n  prot: 1\nstore: {url: 'mysql://x'}\n")
    code, out, _ = said(capsys, "check", "--format", "json")
    document = json.loads(out)
    assert (code, document["valid"]) == (1, False)
    assert document["errors"][0] == {
        "file": "llmgw.yaml",
        "line": 2,
        "column": 3,
        "path": "server",
        "message": "unknown key `prot`; did you mean `port`?",
        "suggestion": "port",
    }
    assert document["errors"][1]["path"] == "store.url"
    file.write_text(ZERO)
    code, out, _ = said(capsys, "check", "--format", "json", "--connect")
    assert (code, json.loads(out)["valid"], json.loads(out)["deployments"]) == (0, True, [])


def test_a_backend_is_not_called_unknown_while_its_plugin_is_not_there(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "models: {m: {deployments: [{name: a, backend: b, zone: z}]}}\n"
    file.write_text(f"{ZERO}plugins: [{{name: nobody}}]\n{model}")
    _, _, err = said(capsys, "check")
    assert "is enabled but not installed" in err
    assert "no enabled plugin has a backend" not in err
    file.write_text(ZERO + model)
    _, _, err = said(capsys, "check")
    assert "no enabled plugin has a backend" in err


def test_the_schema_is_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "config", "schema")
    assert (code, json.loads(out)["$ref"]) == (0, "#/$defs/Config")
    said(capsys, "config", "schema", "--output", "schema.json")
    assert json.loads(file.with_name("schema.json").read_text()) == json.loads(out)
    code, _, err = said(capsys, "config", "schema", "--output", "nowhere/schema.json")
    assert (code, "cannot be written" in err) == (1, True)


def test_what_holds_is_shown_as_yaml_or_json(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = said(capsys, "config", "show")
    assert "\naccounting:\n  currency: USD\n  unpriced: zero\n" in out
    _, out, _ = said(capsys, "config", "show", "--json")
    assert json.loads(out)["requests"]["attempts"] == 5


async def loaded(file: Path, *texts: str) -> None:
    """Run a gateway with one text after the other."""
    file.write_text(texts[0])
    async with Gateway.open(file) as gateway:
        for text in texts[1:]:
            file.write_text(text)
            await gateway.reload(trigger="SIGHUP")


async def test_what_was_loaded_is_listed_compared_and_put_back(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "config", "history")[1] == "Nothing has been loaded yet.\n"
    first, second = ZERO, ZERO + "requests: {attempts: 2}\n"
    await loaded(file, first, second)
    code, out, _ = said(capsys, "config", "history")
    assert [line.split()[0] for line in out.splitlines()] == ["NUMBER", "1", "2"]
    assert out.splitlines()[2].endswith("SIGHUP")
    entries = json.loads(said(capsys, "config", "history", "--json")[1])
    assert [entry["text"] for entry in entries] == [first, second]

    file.write_text("requests: [\n")  # broken: that is when one wants to go back
    code, out, _ = said(capsys, "config", "diff", "2")
    assert "-requests: {attempts: 2}\n+requests: [" in out
    code, out, _ = said(capsys, "config", "rollback", "2")
    assert (code, file.read_text()) == (0, second)
    assert "is configuration 2 of" in out
    assert "kill -HUP" in out
    assert said(capsys, "config", "diff", "2")[1] == "There is no difference.\n"
    code, _, err = said(capsys, "config", "rollback", "9")
    assert (code, "there is no configuration 9" in err) == (1, True)


async def test_what_would_not_load_any_more_is_not_put_back(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL", "books")
    monkeypatch.setenv("HOST", "localhost")
    journal = "accounting: {unpriced: zero, journal: '${JOURNAL}'}\n"
    await loaded(file, journal + "server: {host: '${HOST}'}\n")
    monkeypatch.delenv("HOST")
    file.write_text(journal)
    code, _, err = said(capsys, "config", "rollback", "1")
    assert (code, file.read_text()) == (1, journal)
    assert "configuration 1:2:10: server.host: the environment variable `HOST` is not set" in err


async def test_what_needs_a_plugin_that_is_gone_is_not_put_back(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = file.with_name("p.py")
    plugin.write_text(PLUGIN)
    await loaded(file, ZERO + "plugins: [{name: p, path: p.py}]\n")
    plugin.unlink()
    file.write_text(ZERO)
    code, _, err = said(capsys, "config", "rollback", "1")
    assert (code, file.read_text()) == (1, ZERO)
    assert "configuration 1:" in err
    assert "p.py cannot be read" in err


async def test_a_journal_that_nobody_can_name_is_not_taken_for_an_empty_history(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("accounting: {journal: '${NO_SUCH_VARIABLE}'}\n")
    code, out, err = said(capsys, "config", "history")
    assert (code, out) == (1, "")
    assert "`NO_SUCH_VARIABLE` is not set" in err


async def test_a_directory_that_cannot_be_written_is_told_with_the_remedy(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await loaded(file, ZERO)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("llmgw_server.cli.configuring.put_back", refuse)
    code, _, err = said(capsys, "config", "rollback", "1")
    assert code == 1
    assert "cannot be written: Permission denied. `config diff 1` shows what to change" in err
