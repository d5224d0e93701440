"""Start, end, observers and contexts."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.deployment import Deployment
from llmgw_core.domain.errors import ConfigError, GatewayError
from llmgw_core.hooks.context import PluginContext
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.plugins import Recorder, contexts_in, host_of
from llmgw_core.testing.usage_records import usage_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import aiohttp

    from llmgw_core.domain.usage import UsageRecord


def making(log: list[str], **hooks: Callable[..., Any]) -> type[Any]:
    """A plugin class from functions by hook name; notes its start and end in `log`."""

    def init(self: Any, config: Any, context: Any) -> None:
        self.context = context

    def startup(self: Any) -> None:
        log.append(f"+{self.context.name}")

    async def shutdown(self: Any) -> None:
        log.append(f"-{self.context.name}")

    functions = {"startup": startup, "shutdown": shutdown, **hooks}
    body = {name: hookimpl(function) for name, function in functions.items()}
    return type("Plugin", (), {"__init__": init, **body})


async def test_plugins_start_in_order_and_end_in_reverse_once(tmp_path: Path) -> None:
    log: list[str] = []
    host = host_of(tmp_path, *((name, making(log)) for name in "abc"))
    await host.startup()
    await host.shutdown(5)
    await host.shutdown(5)
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_a_host_that_was_not_started_ends_without_calling_anybody(tmp_path: Path) -> None:
    log: list[str] = []
    await host_of(tmp_path, ("a", making(log))).shutdown(5)
    assert log == []


@pytest.mark.parametrize("error", [RuntimeError("no engine"), GatewayError(500, "x", "no engine")])
async def test_a_failing_start_ends_those_before_it_and_names_the_plugin(
    tmp_path: Path, error: Exception
) -> None:
    log: list[str] = []

    async def startup(self: Any) -> None:
        self.context.spawn(asyncio.Event().wait(), "waits")
        raise error

    host = host_of(
        tmp_path, ("a", making(log)), ("b", making(log, startup=startup)), ("c", making(log))
    )
    name = type(error).__name__
    with pytest.raises(ConfigError, match=f"^the plugin `b` failed in `startup`: {name}: no eng"):
        await host.startup()
    assert log == ["+a", "-a"]
    assert len(asyncio.all_tasks()) == 1


async def test_a_configuration_error_from_a_start_passes_unchanged(tmp_path: Path) -> None:
    def startup(self: Any) -> None:
        raise ConfigError("no GPU", path="plugins[0]")

    with pytest.raises(ConfigError, match=r"^plugins\[0\]: no GPU$"):
        await host_of(tmp_path, ("a", making([], startup=startup))).startup()


async def test_failures_at_the_end_are_logged_and_others_still_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    def raising(self: Any) -> None:
        raise RuntimeError

    async def hanging(self: Any) -> None:
        await asyncio.Event().wait()

    async def cancelled(self: Any) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    host = host_of(
        tmp_path,
        ("a", making(log)),
        ("b", making(log, shutdown=raising)),
        ("c", making(log, shutdown=hanging)),
        ("d", making(log, shutdown=cancelled)),
    )
    await host.startup()
    await host.shutdown(0.05)
    assert log == ["+a", "+b", "+c", "+d", "-a"]
    assert [item.getMessage() for item in caplog.records] == [
        f"Plugin {name} failed in shutdown." for name in "dcb"
    ]
    assert host.failures == {(name, "shutdown"): 1 for name in "dcb"}


async def test_ending_can_itself_be_cancelled(tmp_path: Path) -> None:
    entered = asyncio.Event()

    async def hanging(self: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    host = host_of(tmp_path, ("a", making([], shutdown=hanging)))
    await host.startup()
    task = asyncio.ensure_future(host.shutdown(60))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def recorder(host: Any, name: str) -> Recorder:
    (found,) = (plugin.instance for plugin in host.plugins if plugin.name == name)
    assert isinstance(found, Recorder)
    return found


async def test_observers_get_every_record_in_order_before_the_end(tmp_path: Path) -> None:
    host = host_of(tmp_path, ("a", Recorder), ("b", Recorder))
    records = [usage_record(n) for n in range(50)]
    host.observe_usage(records[0])
    await host.startup()
    for item in records[1:]:
        host.observe_usage(item)
    await host.shutdown(5)
    expected = [("startup", None), *(("on_usage", item) for item in records), ("shutdown", None)]
    assert recorder(host, "a").events == expected
    assert recorder(host, "b").events == expected
    assert host.dropped == {"a": 0, "b": 0}
    host.observe_usage(records[0])
    assert host.dropped == {"a": 1, "b": 1}


async def test_an_observer_that_fails_hangs_or_is_cancelled_disturbs_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    hang = asyncio.Event()

    async def moody(self: Any, record: UsageRecord) -> None:
        match record.call_id:
            case "raise":
                raise GatewayError(500, "x", "x")
            case "cancel":
                task = asyncio.ensure_future(hang.wait())
                task.cancel()
                await task
            case "hang":
                await hang.wait()
        seen.append(record.call_id)

    host = host_of(
        tmp_path,
        ("bad", making([], on_usage=moody)),
        ("good", Recorder),
        configs=[PluginConfig("bad", timeout=0.01)],
    )
    await host.startup()
    for name in ("one", "raise", "cancel", "hang", "two"):
        host.observe_usage(usage_record(call_id=name))
    await host.shutdown(5)
    assert seen == ["one", "two"]
    assert len(recorder(host, "good").events) == 7
    assert host.failures == {("bad", "on_usage"): 3}
    assert host.dropped == {"bad": 0, "good": 0}
    assert len([item for item in caplog.records if "on_usage" in item.getMessage()]) == 3


async def test_a_full_queue_drops_and_counts_and_the_end_does_not_wait_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entered, hang = asyncio.Event(), asyncio.Event()

    async def on_usage(self: Any) -> None:
        entered.set()
        await hang.wait()

    log: list[str] = []
    host = host_of(tmp_path, ("slow", making(log, on_usage=on_usage)), queue_size=3)
    await host.startup()
    host.observe_usage(usage_record(0))
    await entered.wait()
    for n in range(1, 6):
        host.observe_usage(usage_record(n))
    assert host.dropped == {"slow": 2}
    await host.shutdown(0.02)
    assert host.dropped == {"slow": 6}
    assert host.describe()[0].dropped == 6
    assert [item.getMessage() for item in caplog.records] == [
        "Plugin slow is too slow: records are dropped.",
        "Plugin slow did not take its last 3 records.",
    ]
    assert log == ["+slow", "-slow"]


async def test_an_observer_that_refuses_to_be_cancelled_is_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[Any] | None] = []

    async def stubborn(self: Any) -> None:
        tasks.append(asyncio.current_task())
        entered.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    host = host_of(tmp_path, ("s", making([], on_usage=stubborn)))
    await host.startup()
    host.observe_usage(usage_record())
    await entered.wait()
    await host.shutdown(0.02)
    assert "Plugin s does not let go of a record." in caplog.text
    release.set()
    await asyncio.wait([task for task in tasks if task is not None])


async def test_a_started_observer_starts_once(tmp_path: Path) -> None:
    host = host_of(tmp_path, ("a", Recorder))
    await host.startup()
    await host.startup()
    host.observe_usage(usage_record())
    await host.shutdown(5)
    assert [name for name, _ in recorder(host, "a").events].count("on_usage") == 1


def test_the_data_directory_is_made_when_it_is_asked_for(tmp_path: Path) -> None:
    context = contexts_in(tmp_path / "data")("p")
    assert not (tmp_path / "data").exists()
    assert context.data_dir == tmp_path / "data" / "p"
    assert stat.S_IMODE(context.data_dir.stat().st_mode) == 0o700
    (context.data_dir / "x").touch()
    assert (context.data_dir / "x").exists()


def test_a_context_has_clocks_metrics_and_a_logger_of_its_own(tmp_path: Path) -> None:
    context = PluginContext("p", data_dir=tmp_path, clock=lambda: 1.0, wall_clock=lambda: 2.0)
    assert (context.clock(), context.wall_clock()) == (1.0, 2.0)
    assert context.logger.name == "llmgw.plugin.p"
    context.metrics.counters["hits"] += 1
    context.metrics.gauges["size"] = 3
    host = host_of(tmp_path, ("a", Recorder))
    assert host.contexts["a"].metrics.counters == {}
    assert (context.metrics.counters, context.metrics.gauges) == ({"hits": 1}, {"size": 3})


async def test_deployments_are_known_from_startup_on(tmp_path: Path) -> None:
    found: list[Any] = []

    def startup(self: Any) -> None:
        found.extend(self.context.deployments("openai"))

    host = host_of(tmp_path, ("a", making([], startup=startup)))
    with pytest.raises(ConfigError, match="from the hook `startup` on"):
        await host.startup()
    deployment = Deployment("m/a", "m", "openai", "z", "m")
    host = host_of(tmp_path, ("a", making([], startup=startup)))
    host.bind_deployments(lambda backend: (deployment,) if backend == "openai" else ())
    await host.startup()
    await host.shutdown(5)
    assert found == [deployment]


async def test_tasks_of_plugins_are_cancelled_at_the_end_and_their_errors_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = contexts_in(tmp_path)("p")

    async def failing() -> None:
        raise ValueError("boom")

    async def fine() -> int:
        return 3

    waiting = context.spawn(asyncio.Event().wait(), "waiting")
    failed = context.spawn(failing(), "failing")
    assert await context.spawn(fine(), "fine") == 3
    await asyncio.wait([failed])
    await context.aclose(5)
    await context.aclose(5)
    with pytest.raises(RuntimeError, match="the plugin is closed: nobody would end its tasks"):
        context.spawn(asyncio.sleep(0), "late")
    with pytest.raises(RuntimeError, match="the plugin is closed"):
        context.http()
    assert waiting.cancelled()
    assert waiting.get_name() == "llmgw-p-waiting"
    assert [item.getMessage() for item in caplog.records] == [
        "The task llmgw-p-failing ended with an error."
    ]


async def test_a_task_that_does_not_end_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = contexts_in(tmp_path)("p")
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    task = context.spawn(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await context.aclose(0.01)
    assert "The task llmgw-p-stubborn does not end." in caplog.text
    release.set()
    await task


@pytest.mark.parametrize("opens", ["task", "http"])
async def test_a_constructor_opens_nothing_that_could_be_left_behind(
    tmp_path: Path, opens: str
) -> None:
    def init(self: Any, config: Any, context: PluginContext) -> None:
        if opens == "task":
            context.spawn(asyncio.sleep(0), "early")
        else:
            context.http()

    plugin = type("Early", (making([]),), {"__init__": init})
    with pytest.raises(ConfigError, match=r"`p` failed in `__init__`: .* into the hook `startup`"):
        host_of(tmp_path, ("p", plugin))


def test_a_task_needs_a_running_loop(tmp_path: Path) -> None:
    context = contexts_in(tmp_path)("p")
    with pytest.raises(RuntimeError, match="no running event loop"):
        context.spawn(asyncio.sleep(0), "early")


async def test_the_http_client_is_made_once_and_closed_at_the_end(tmp_path: Path) -> None:
    sessions: list[aiohttp.ClientSession] = []

    def startup(self: Any) -> None:
        sessions.extend([self.context.http(), self.context.http()])

    host = host_of(tmp_path, ("a", making([], startup=startup)))
    await host.startup()
    assert sessions[0] is sessions[1]
    assert not sessions[0].closed
    await host.shutdown(5)
    assert sessions[0].closed
