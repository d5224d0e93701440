from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.context import PluginContext
from llmgw_core.testing.plugins import host_of
from llmgw_core.testing.usage_records import usage_record
from llmgw_jsonlog import JsonLogPlugin

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.hooks.host import PluginHost


def host_with(directory: Path, **config: Any) -> PluginHost:
    section = PluginConfig(name="jsonlog", config=config)
    return host_of(directory, ("jsonlog", JsonLogPlugin), configs=(section,))


async def test_every_observed_call_becomes_a_line(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    host = host_with(tmp_path, output=str(path))
    await host.startup()
    for number in range(3):
        host.observe_usage(usage_record(number))
    await host.shutdown(5.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["call_id"] for line in lines] == ["call-0", "call-1", "call-2"]
    assert host.contexts["jsonlog"].metrics.counters == {"lines_written_total": 3}
    assert not host.failures


@pytest.mark.parametrize("output", ["stdout", "stderr"])
async def test_lines_can_go_to_a_standard_stream(
    output: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    host = host_with(tmp_path, output=output)
    await host.startup()
    host.observe_usage(usage_record(7))
    await host.shutdown(5.0)
    written = capfd.readouterr()
    text = written.out if output == "stdout" else written.err
    assert json.loads(text)["call_id"] == "call-7"


def test_standard_output_is_the_default() -> None:
    assert JsonLogPlugin.Config().output == "stdout"


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prompts"):
        host_with(tmp_path, prompts=True)


@pytest.mark.parametrize("output", ["", "no/calls.jsonl", "log", "~nobody-of-this-name/calls"])
def test_an_output_that_no_file_can_have_is_found_at_the_start(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    with pytest.raises(ConfigError, match=r"`jsonlog`: `output` must be .* directory that exists"):
        host_with(tmp_path, output=output)


async def test_a_lost_line_is_counted_and_said_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = [1000.0]
    context = PluginContext("jsonlog", data_dir=tmp_path / "data", clock=lambda: times[-1])
    directory = tmp_path / "log"
    directory.mkdir()
    plugin = JsonLogPlugin(JsonLogPlugin.Config(output=str(directory / "calls")), context)
    directory.rmdir()
    said = []
    with caplog.at_level(logging.WARNING):
        for now in (1000.0, 1001.0, 1059.9, 1060.0, 1061.0):
            times.append(now)
            await plugin.on_usage(usage_record(1))
            said.append(len(caplog.records))
    assert said == [1, 1, 1, 2, 2]
    assert "4 lines could not be written" in caplog.messages[1]
    assert "No such file" in caplog.messages[1]
    assert context.metrics.counters == {"lines_lost_total": 5}
    await plugin.shutdown()


async def test_nothing_observed_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    host = host_with(tmp_path, output=str(path))
    await host.startup()
    await host.shutdown(1.0)
    assert not path.exists()
