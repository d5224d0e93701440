"""What makes a served gateway reload: the signal, and the file however it is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.schema import Config
from llmgw_core.gateway import Gateway
from llmgw_core.testing.reloads import settled
from llmgw_server.reloading import NOTE, Watch, ask_to_reload, reloading, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable

FAST = "reload: {{watch: 0.005}}\nrequests: {{attempts: {0}}}\n"


def in_place(file: Path, text: str) -> None:
    file.write_text(text)


def by_rename(file: Path, text: str) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(file)


def by_link(file: Path, text: str) -> None:
    """As Kubernetes replaces a mounted ConfigMap: the link to the directory is exchanged."""
    directory = file.parent
    target = directory / f"..{text.count('3') + 1}"
    target.mkdir()
    (target / file.name).write_text(text)
    draft = directory / "..data_tmp"
    draft.symlink_to(target.name)
    draft.replace(directory / "..data")
    if not file.is_symlink():
        file.unlink(missing_ok=True)
        file.symlink_to(Path("..data") / file.name)


@pytest.mark.parametrize("replace", [in_place, by_rename, by_link])
async def test_a_file_that_changes_is_loaded_however_it_is_replaced(
    tmp_path: Path, replace: Callable[[Path, str], None]
) -> None:
    file = tmp_path / "llmgw.yaml"
    replace(file, FAST.format(2))
    async with Gateway.open(file) as gateway, reloading(gateway):
        reloaded = asyncio.Event()
        gateway.after_reload(reloaded.set)
        replace(file, FAST.format(33))
        await reloaded.wait()
        assert gateway.config.requests.attempts == 33


async def test_a_file_of_exchange_rates_that_changes_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, rates = tmp_path / "llmgw.yaml", tmp_path / "rates.csv"
    by_rename(rates, "date,currency,rate\n2026-01-01,EUR,1.1\n")
    text = FAST + "accounting: {{exchange_rates: rates.csv}}\n"
    by_rename(file, text.format(2))
    caplog.set_level("INFO")
    async with Gateway.open(file) as gateway, reloading(gateway):
        reloaded = asyncio.Event()
        gateway.after_reload(reloaded.set)
        # Behind the first looks, which read everything once.
        by_rename(file, text.format(3))
        await reloaded.wait()
        reloaded.clear()
        by_rename(rates, "date,currency,rate\n2026-01-01,EUR,1.2\n")
        await reloaded.wait()
    assert "changed: accounting.exchange_rates" in caplog.text


async def test_another_interval_holds_at_once_and_none_means_no_looking(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text("reload: {watch: 3600}\n")
    async with Gateway.open(file) as gateway, reloading(gateway):
        file.write_text(FAST.format(2))
        await gateway.reload()
        reloaded = asyncio.Event()
        gateway.after_reload(reloaded.set)
        file.write_text("requests: {attempts: 3}\n")
        await reloaded.wait()
        assert gateway.config.reload.watch == 0


def test_a_change_counts_once_it_has_come_to_rest(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("a")
    first = stamp_of(file)
    file.write_text("ab")
    second = stamp_of(file)
    watch = Watch(first)
    assert [watch.changed(stamp) for stamp in (first, second, None, second, second, second)] == [
        *(False, False, False, False, True, False)
    ]
    assert stamp_of(tmp_path / "nowhere") is None


async def test_a_signal_without_a_file_or_a_change_is_answered_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    file = tmp_path / "llmgw.yaml"
    file.write_text("requests: {attempts: 2}\n")
    async with Gateway.open(file) as gateway, reloading(gateway):
        os.kill(os.getpid(), signal.SIGHUP)
        await settled(lambda: "says what it said before" in caplog.text)
    async with Gateway.open(Config(), base_dir=tmp_path) as gateway, reloading(gateway):
        os.kill(os.getpid(), signal.SIGHUP)
        await settled(lambda: "opened without a file" in caplog.text)


async def test_a_signal_while_the_gateway_closes_does_not_end_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with Gateway.open(Config(), base_dir=tmp_path) as gateway:
        async with reloading(gateway):
            pass
        os.kill(os.getpid(), signal.SIGHUP)
        await settled(lambda: "not reloaded" in caplog.text)


async def test_a_process_is_asked_only_if_it_is_certain_which_one_it_is(tmp_path: Path) -> None:
    file = tmp_path / "llmgw.yaml"
    file.write_text("requests: {attempts: 2}\n")
    async with Gateway.open(file) as gateway, reloading(gateway):
        note = tmp_path / "journal" / NOTE
        file.write_text("requests: {attempts: 3}\n")
        assert ask_to_reload(note.parent).startswith(f"Process {os.getpid()} was asked")
        await settled(lambda: gateway.config.requests.attempts == 3)
        for text in ("", "1", f"{os.getpid()} 1", f"{os.getpid()} -", "x y", "99999999 5"):
            note.write_text(text)
            assert "kill -HUP" in ask_to_reload(note.parent)
    assert "kill -HUP" in ask_to_reload(tmp_path / "journal")
