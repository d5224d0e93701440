"""What was loaded is kept as it was written, in bounded number, and can be put back."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgw_core.config.history import History, put_back
from llmgw_core.config.load import load_file
from llmgw_core.config.masking import MASK, effective
from llmgw_core.domain.errors import ConfigError
from llmgw_core.gateway import Gateway

FILE = Path("llmgw.yaml")


def record(history: History, *texts: str, keep: int = 3) -> None:
    for at, text in enumerate(texts):
        history.record(text, file=FILE, trigger="test", at=float(at), keep=keep)


def test_the_newest_are_kept_with_their_numbers(tmp_path: Path) -> None:
    history = History(tmp_path)
    record(history, "a", "b", "c", "d", "e")
    assert [(entry.number, entry.text) for entry in history.entries()] == [
        *((3, "c"), (4, "d"), (5, "e"))
    ]
    assert history.entry(4).trigger == "test"
    assert "'test'" in repr(history.entry(4))
    with pytest.raises(ConfigError, match="no configuration 1 in the history"):
        history.entry(1)


def test_the_same_text_again_is_no_news(tmp_path: Path) -> None:
    history = History(tmp_path)
    record(history, "a", "a", "b", "a")
    assert [entry.text for entry in history.entries()] == ["a", "b", "a"]


def test_entries_are_the_users_alone_and_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    history = History(tmp_path)
    record(history, "a", "b")
    first, second = sorted(tmp_path.glob("config-*.json"))
    assert first.stat().st_mode & 0o777 == 0o600
    first.write_text("{")
    assert [entry.text for entry in history.entries()] == ["b"]
    second.write_text("{")
    record(history, "c")
    assert [entry.number for entry in history.entries()] == [3]


def test_nothing_is_kept_where_nothing_is_wanted_or_ever_was(tmp_path: Path) -> None:
    record(History(tmp_path), "a", keep=0)
    assert History(tmp_path).entries() == []
    assert History(tmp_path / "nowhere").entries() == []


def test_what_lies_beside_a_file_that_is_put_back_is_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("other")
    (tmp_path / ".f.yaml.new").symlink_to(other)
    put_back(tmp_path / "f.yaml", "mine")
    assert other.read_text() == "other"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".f.yaml.new", "f.yaml", "other"]
    assert (tmp_path / "f.yaml").stat().st_mode & 0o777 == 0o600


def test_a_file_is_put_back_through_links_with_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "target.yaml", tmp_path / "link.yaml"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    put_back(link, "new\n")
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new\n", 0o640)
    assert link.is_symlink()
    put_back(tmp_path / "fresh.yaml", "x")
    assert (tmp_path / "fresh.yaml").stat().st_mode & 0o777 == 0o600
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        put_back(tmp_path / "directory", "x")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "directory",
        "fresh.yaml",
        "link.yaml",
        "target.yaml",
    ]


async def test_a_gateway_remembers_what_it_started_with_and_what_it_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOST", "localhost")
    file = tmp_path / "llmgw.yaml"
    file.write_text("server: {host: '${HOST}'}\n")
    async with Gateway.open(file) as gateway:
        history = History.of(gateway.config)
        file.write_text("server: {host: '${HOST}'}\nrequests: {attempts: 2}\n")
        await gateway.reload(trigger="somebody")
        file.write_text("requests: {attempts: x}\n")
        with pytest.raises(ConfigError, match=r"llmgw\.yaml:1:12: requests\.attempts: expected"):
            await gateway.reload(trigger="somebody")
        assert [(entry.trigger, "${HOST}" in entry.text) for entry in history.entries()] == [
            *(("start", True), ("somebody", True))
        ]
        (tmp_path / "journal" / "config-000003.json").mkdir()
        (tmp_path / "journal" / "config-000004.new").mkdir()
        file.write_text("server: {host: '${HOST}'}\nrequests: {attempts: 3}\n")
        assert (await gateway.reload()).changed == ("requests.attempts",)
        assert "the history of the configuration cannot be kept" in caplog.text
        (tmp_path / "journal" / "config-000003.json").rmdir()
        (tmp_path / "journal" / "config-000004.new").rmdir()


def test_what_holds_is_shown_with_references_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-secret")
    (tmp_path / "password").write_text("sk-secret")
    file = tmp_path / "llmgw.yaml"
    file.write_text(
        """
accounting: {unpriced: zero}
store: {url: "sqlite:///x.db"}
plugins: [{name: p, config: {url: "http://u:sk-secret@h/", api_key: sk-secret, note: plain}}]
models:
  m:
    prices: [{from: 2026-01-01, cost: {input: 0.15}}]
    deployments:
      - {name: a, backend: b, zone: z, credential: "${KEY}", options: {x: "file:password"}}
      - {name: b, backend: b, zone: z, credential: sk-secret}
"""
    )
    values = effective(load_file(file))
    first, second = values["models"]["m"]["deployments"]
    assert (first["credential"], first["options"]) == ("${KEY}", {"x": "file:password"})
    assert (second["credential"], second["timeouts"]["connect"]) == (MASK, None)
    assert values["plugins"][0]["config"] == {
        "url": f"http://u:{MASK}@h/",
        "api_key": MASK,
        "note": "plain",
    }
    assert values["models"]["m"]["prices"][0]["cost"]["input"] == 0.15
    assert values["requests"]["attempts"] == 5
    assert "sk-secret" not in str(values)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("{api_keys: {sk-secret-1: alice}}", {"api_keys": MASK}),
        ("{secrets: {one: sk-secret, two: ['${B}']}}", {"secrets": MASK}),
        (
            "{secrets: {one: '${B}', two: ['file:b']}}",
            {"secrets": {"one": "${B}", "two": ["file:b"]}},
        ),
        ("{tokens: [sk-secret, '${B}']}", {"tokens": [MASK, "${B}"]}),
        ("{headers: {X-Custom: sk-secret}}", {"headers": {"X-Custom": MASK}}),
        ("{headers: {A: 'Bearer ${B}'}}", {"headers": {"A": "Bearer ${B}"}}),
        ("{pin: 1, password: 314159}", {"pin": 1, "password": MASK}),
        ("{max_tokens: 5, has_key: true}", {"max_tokens": 5, "has_key": True}),
        ("{passphrase: sk-secret}", {"passphrase": MASK}),
        ("{password: 'sk-secret${B}'}", {"password": MASK}),
        ("{password: '$${sk-secret}'}", {"password": MASK}),
        ("{at: 'http://u:sk-secret@${B}/'}", {"at": f"http://u:{MASK}@${{B}}/"}),
        ("{at: 'http://u:${B}@h/'}", {"at": "http://u:${B}@h/"}),
        ("{at: 'http://u:p@sk-secret@h/'}", {"at": f"http://u:{MASK}@h/"}),
        ("{at: 'https://sk-secret@h/'}", {"at": f"https://{MASK}@h/"}),
        ("{at: 'https://h/x?a=1&api_key=sk-secret'}", {"at": f"https://h/x?a=1&api_key={MASK}"}),
        ("{args: [--api-key, sk-secret, --port, x]}", {"args": ["--api-key", MASK, "--port", "x"]}),
        ("{args: ['--api-key=sk-secret']}", {"args": [f"--api-key={MASK}"]}),
    ],
)
def test_secrets_are_masked_wherever_a_plugin_may_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, shown: dict[str, object]
) -> None:
    monkeypatch.setenv("B", "resolved")
    (tmp_path / "b").write_text("resolved")
    file = tmp_path / "llmgw.yaml"
    file.write_text(f"plugins: [{{name: p, config: {written}}}]\n")
    values = effective(load_file(file))
    assert values["plugins"][0]["config"] == shown
    assert "sk-secret" not in str(values)
    assert "resolved" not in str(values)
