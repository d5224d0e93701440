"""What a host refuses to load, and the sentence that says why."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.plugins import Recorder, contexts_in, host_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.testing.distributions import Distributions

MODULE = """
import msgspec
from llmgw_core.hooks.specs import hookimpl

class Plugin:
    class Config(msgspec.Struct):
        weight: int = 1

    def __init__(self, config, context):
        self.config = config
        self.context = context

    @hookimpl
    def authorize(self, model):
        return f"{self.context.name} {self.config.weight}"
"""


def load(directory: Path, *configs: PluginConfig) -> PluginHost:
    return PluginHost.load(configs, context_for=contexts_in(directory))


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    return str(caught.value)


def one(tmp_path: Path, plugin: type[Any], *configs: PluginConfig) -> str:
    return refusal(lambda: host_of(tmp_path, ("p", plugin), configs=configs))


class Base:
    def __init__(self, config: Any, context: Any) -> None:
        self.config = config


class Good(Base):
    @hookimpl
    def authorize(self) -> None:
        return None


def test_an_installed_plugin_is_loaded_with_its_configuration(
    tmp_path: Path, distributions: Distributions, call: Call
) -> None:
    distributions.add("llmgw-w", plugins={"w": "w_plugin:Plugin"}, modules={"w_plugin": MODULE})
    host = load(tmp_path, PluginConfig("w", {"weight": 7}))
    assert host.run_authorize(call, "m") == "w 7"
    (row,) = host.describe()
    assert (row.order, row.name, row.distribution, row.version) == (1, "w", "llmgw-w", "1.0")
    assert (row.hooks, row.state, row.path) == (("authorize",), "made", "")
    assert (row.calls, row.failures, row.dropped) == (1, 0, 0)


def test_installed_is_not_enabled_and_nothing_is_imported_or_even_read(
    tmp_path: Path, distributions: Distributions, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributions.add("llmgw-u", plugins={"u": "u_plugin:Plugin"}, modules={"u_plugin": "1/0"})
    distributions.add("llmgw-w", plugins={"w": "w_plugin:Plugin"}, modules={"w_plugin": MODULE})
    assert len(load(tmp_path, PluginConfig("w")).describe()) == 1
    assert "u_plugin" not in sys.modules
    reads: list[str] = []

    def reading(group: str) -> list[Any]:
        reads.append(group)
        return []

    monkeypatch.setattr("importlib.metadata.entry_points", reading)
    assert host_of(tmp_path, ("g", Good)).describe()[0].name == "g"
    assert reads == []
    refusal(lambda: load(tmp_path, PluginConfig("a"), PluginConfig("b")))
    assert reads == ["llmgw"]


def test_a_plugin_that_is_not_installed_is_refused_with_the_remedy(
    tmp_path: Path, distributions: Distributions, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributions.add("llmgw-w", plugins={"jsonlog": "w_plugin:Plugin"})
    # Nothing else is installed, whatever the environment of these tests has.
    only = importlib.metadata.distributions(path=[str(distributions.directory)])
    entries = importlib.metadata.EntryPoints(
        entry for distribution in only for entry in distribution.entry_points
    )
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)
    assert refusal(lambda: load(tmp_path, PluginConfig("jsnlog"), PluginConfig("zzz"))) == (
        "plugins[0]: the plugin `jsnlog` is enabled but not installed (installed: `jsonlog`);"
        " did you mean `jsonlog`?\n"
        "plugins[1]: the plugin `zzz` is enabled but not installed (installed: `jsonlog`);"
        " `pip install llmgw-zzz`, if that brings it."
    )


def test_two_distributions_with_one_name_are_both_named(
    tmp_path: Path, distributions: Distributions
) -> None:
    distributions.add("llmgw-w", plugins={"w": "w_plugin:Plugin"}, modules={"w_plugin": MODULE})
    distributions.add("other-w", plugins={"w": "w_plugin:Plugin"})
    assert refusal(lambda: load(tmp_path, PluginConfig("w"))) == (
        "plugins[0]: the plugin `w` is provided by `llmgw-w` and `other-w`; uninstall all but one."
    )


@pytest.mark.parametrize(
    ("target", "source", "sentence"),
    [
        (
            "bad_plugin:Plugin",
            "import a_module_that_is_not_there",
            (
                "plugins[0]: the plugin `bad` cannot be imported: the module"
                " `a_module_that_is_not_there` is missing or incomplete (No module named"
                " 'a_module_that_is_not_there'); `pip install --force-reinstall llmgw-bad` brings"
                " what it depends on."
            ),
        ),
        (
            "bad_plugin:Plugin",
            "raise ImportError('no libfoo')",
            (
                "plugins[0]: the plugin `bad` cannot be imported: a module is missing or incomplete"
                " (no libfoo); `pip install --force-reinstall llmgw-bad` brings what it depends on."
            ),
        ),
        (
            "bad_plugin:Nobody",
            "",
            "plugins[0]: the plugin `bad`: its entry point `bad_plugin:Nobody` names nothing.",
        ),
        (
            "bad_plugin:Plugin",
            "Plugin = 1",
            (
                "plugins[0]: the plugin `bad`: its entry point `bad_plugin:Plugin` does not name"
                " a class."
            ),
        ),
        (
            "bad_plugin:Plugin",
            "1 / 0",
            "the plugin `bad` failed in `import`: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_refused(
    tmp_path: Path, distributions: Distributions, target: str, source: str, sentence: str
) -> None:
    distributions.add("llmgw-bad", plugins={"bad": target}, modules={"bad_plugin": source})
    assert refusal(lambda: load(tmp_path, PluginConfig("bad"))) == sentence


def test_every_plugin_is_checked_before_any_is_made(
    tmp_path: Path, distributions: Distributions
) -> None:
    made: list[str] = []

    class Noting(Base):
        def __init__(self, config: Any, context: Any) -> None:
            made.append("made")

        @hookimpl
        def startup(self) -> None: ...

    class Wrong(Base):
        @hookimpl
        def pre_auht(self) -> None: ...

    text = refusal(
        lambda: host_of(
            tmp_path, ("n", Noting), ("w", Wrong), configs=[PluginConfig("n", {"x": 1})]
        )
    )
    assert text == (
        "plugins[0].config: the plugin `n`: it takes no configuration; remove `config`.\n"
        "the plugin `w`: there is no hook `pre_auht`; did you mean `pre_auth`?"
    )
    assert made == []


def test_a_hook_under_another_name_static_or_for_a_later_version_is_accepted(
    tmp_path: Path,
    call: Call,
) -> None:
    class Plugin(Base):
        needs = frozenset({"reply"})

        @hookimpl(specname="authorize")
        def any_name(self, model: str) -> str:
            return f"other {model}"

        @staticmethod
        @hookimpl
        def startup() -> None: ...

        @hookimpl(optionalhook=True)
        def hook_of_the_future(self) -> None: ...

    host = host_of(tmp_path, ("p", Plugin), ("r", Recorder))
    assert host.run_authorize(call, "m") == "other m"
    assert host.needs == {"reply"}
    assert host.describe()[0].hooks == ("startup", "authorize")


def test_configuration_errors_name_the_plugin_the_key_and_no_value(tmp_path: Path) -> None:
    class Plugin(Good):
        class Config(msgspec.Struct):
            api_key: str
            level: int = 1

    text = one(tmp_path, Plugin, PluginConfig("p", {"api_kye": "sk-secret", "level": "sk-secret"}))
    assert text == (
        "plugins[0].config: the plugin `p`: unknown key `api_kye`; did you mean `api_key`?\n"
        "plugins[0].config: the plugin `p`: the key `api_key` is missing.\n"
        "plugins[0].config.level: the plugin `p`: expected `int`, got `str`."
    )
    assert one(tmp_path, Plugin) == "config: the plugin `p`: the key `api_key` is missing."


def test_a_name_can_be_enabled_once(tmp_path: Path) -> None:
    assert refusal(lambda: load(tmp_path, PluginConfig("a"), PluginConfig("a"))) == (
        "`plugins` in the configuration: the plugin `a` is named twice."
    )
    assert refusal(lambda: host_of(tmp_path, ("a", Good), ("a", Good))) == (
        "the plugins given by the application: the plugin `a` is named twice."
    )


def test_a_constructor_that_fails_stops_the_start_with_the_plugins_name(tmp_path: Path) -> None:
    class Failing(Good):
        def __init__(self, config: Any, context: Any) -> None:
            raise OSError(2, "no such engine")

    class Saying(Good):
        def __init__(self, config: Any, context: Any) -> None:
            raise ConfigError("needs a GPU", path="plugins[0]")

    assert one(tmp_path, Failing) == (
        "the plugin `p` failed in `__init__`: FileNotFoundError: [Errno 2] no such engine"
    )
    assert one(tmp_path, Saying) == "plugins[0]: needs a GPU"


def test_plugins_of_the_application_come_first_and_take_their_section(
    tmp_path: Path, distributions: Distributions
) -> None:
    distributions.add("llmgw-w", plugins={"w": "w_plugin:Plugin"}, modules={"w_plugin": MODULE})
    seen: list[Any] = []

    class Configured(Good):
        class Config(msgspec.Struct, frozen=True):
            x: int = 0

        def __init__(self, config: Any, context: Any) -> None:
            seen.append(config)

    host = host_of(
        tmp_path,
        ("b", Configured),
        ("a", Configured),
        configs=[PluginConfig("w"), PluginConfig("a", {"x": 5})],
    )
    assert [row.name for row in host.describe()] == ["b", "a", "w"]
    assert seen == [Configured.Config(0), Configured.Config(5)]


class Options(msgspec.Struct):
    pass


class FakeBackend:
    Options = Options

    def __init__(self, name: str) -> None:
        self.name = name

    def origin(self, deployment: Any) -> Any: ...

    def begin(self, call: Any, deployment: Any, credential: str) -> Any: ...

    def check(self, deployment: Any) -> None: ...


def backend_plugin(*backends: Any) -> type[Any]:
    class Plugin(Base):
        @hookimpl
        def register_backends(self) -> Any:
            return backends

    return Plugin


def test_backends_are_known_by_name_after_loading(tmp_path: Path) -> None:
    one_, two = FakeBackend("one"), FakeBackend("two")
    host = host_of(tmp_path, ("a", backend_plugin(one_)), ("b", backend_plugin(two)))
    assert host.backends == {"one": one_, "two": two}


def test_two_plugins_with_one_backend_name_are_both_named(tmp_path: Path) -> None:
    a, b = backend_plugin(FakeBackend("x")), backend_plugin(FakeBackend("x"))
    assert refusal(lambda: host_of(tmp_path, ("a", a), ("b", b))) == (
        "plugins: the plugins `a` and `b` both register a backend `x`; enable one of them."
    )


def test_one_plugin_with_two_backends_of_one_name_is_refused(tmp_path: Path) -> None:
    assert one(tmp_path, backend_plugin(FakeBackend("x"), FakeBackend("x"))) == (
        "the plugin `p` failed in `register_backends`: ValueError: registered two backends `x`"
    )


def test_what_is_no_backend_is_refused(tmp_path: Path) -> None:
    assert one(tmp_path, backend_plugin(7)) == (
        "the plugin `p` failed in `register_backends`: TypeError: registered int, which is"
        " no Backend"
    )
