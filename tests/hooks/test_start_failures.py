"""Everything about a plugin that stops the start of a gateway, with its sentence: each names the
plugin and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.config.schema import Config, PluginConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import HOOK_API, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.testing.distributions import Distributions


class Base:
    def __init__(self, config: Any, context: Any) -> None: ...

    @hookimpl
    def pre_auth(self) -> None: ...


class Misspelt(Base):
    @hookimpl
    def pre_rout(self) -> None: ...


class WrongArgument(Base):
    @hookimpl
    def pre_route(self, reqest: Any) -> None: ...


class Newer(Base):
    hook_api = HOOK_API + 1

    @hookimpl
    def hook_of_the_future(self) -> None: ...


class NoVersion(Base):
    hook_api = "2"


class Configured(Base):
    class Config(msgspec.Struct, forbid_unknown_fields=True):
        level: int


class Twice(Base):
    @hookimpl(specname="pre_auth")
    def another(self) -> None: ...


class OncePerMoon(Base):
    once_per = "moon"


class Threads:
    class List(Base):
        threads = ("pre_auth",)

    class Absent(Base):
        threads = frozenset({"pre_rout", "post_process"})

    class NotAwaited(Base):
        threads = frozenset({"authorize"})

        @hookimpl
        def authorize(self) -> None: ...

    class Coroutine(Base):
        threads = frozenset({"pre_route"})

        @hookimpl
        async def pre_route(self) -> None: ...


class Starting(Base):
    @hookimpl
    def startup(self) -> None:
        raise OSError(111, "Connection refused")


P = "the plugin `p`: "


@pytest.mark.parametrize(
    ("plugin", "config", "sentence"),
    [
        (Misspelt, {}, P + "there is no hook `pre_rout`; did you mean `pre_route`?"),
        (
            WrongArgument,
            {},
            P + "the hook `pre_route` has no argument `reqest`; did you mean `request`?",
        ),
        (
            Newer,
            {},
            (
                P + f"it was written for hook API {HOOK_API + 1}, and this gateway has {HOOK_API};"
                " upgrade llmgw, or use an older version of the plugin."
            ),
        ),
        (
            NoVersion,
            {},
            P + f"its `hook_api` must be the number of a hook API; this gateway has {HOOK_API}.",
        ),
        (
            Configured,
            {"levl": 1},
            (
                f"plugins[0].config: {P}unknown key `levl`; did you mean `level`?\n"
                f"plugins[0].config: {P}the key `level` is missing."
            ),
        ),
        (Configured, {"level": "x"}, f"plugins[0].config.level: {P}expected `int`, got `str`."),
        (Base, {"x": 1}, f"plugins[0].config: {P}it takes no configuration; remove `config`."),
        (Twice, {}, P + "it implements `pre_auth` twice, and only one of them would be called."),
        (OncePerMoon, {}, P + "its `once_per` must be one of `installation`, `process`."),
        (Threads.List, {}, P + "its `threads` must be a frozenset of names of hooks."),
        (
            Threads.Absent,
            {},
            (
                f"{P}its `threads` names `post_process`, which it does not implement.\n"
                f"{P}its `threads` names `pre_rout`, which it does not implement."
            ),
        ),
        (
            Threads.NotAwaited,
            {},
            P + "its `authorize` cannot run in a thread, because nobody awaits this hook.",
        ),
        (
            Threads.Coroutine,
            {},
            (
                P + "its `pre_route` is a coroutine and cannot run in a thread; make it a plain"
                " function."
            ),
        ),
        (
            Starting,
            {},
            (
                "the plugin `p` failed in `startup`: ConnectionRefusedError: [Errno 111]"
                " Connection refused"
            ),
        ),
    ],
)
async def test_a_plugin_that_cannot_work_stops_the_start_with_its_name_and_the_remedy(
    tmp_path: Path, plugin: type[Any], config: dict[str, Any], sentence: str
) -> None:
    sections = (PluginConfig("p", config),) if config else ()
    with pytest.raises(ConfigError) as caught:
        async with Gateway.open(
            Config(plugins=sections), base_dir=tmp_path, plugins=[("p", plugin)]
        ):
            pass
    said = str(caught.value)
    assert said.replace("plugins[0]: ", "") == sentence


DUPLICATE = "llmgw_duplicate:Plugin"
MISSING = "import a_dependency_that_is_missing"


async def test_missing_dependencies_duplicates_and_names_that_nobody_has(
    tmp_path: Path, distributions: Distributions
) -> None:
    distributions.add(
        "llmgw-needy", plugins={"needy": "needy_plugin:P"}, modules={"needy_plugin": MISSING}
    )
    distributions.add("llmgw-two", plugins={"two": DUPLICATE})
    distributions.add("other-two", plugins={"two": DUPLICATE})
    names = ("needy", "two", "needi")
    config = Config(plugins=tuple(PluginConfig(name) for name in names))
    with pytest.raises(ConfigError) as caught:
        async with Gateway.open(config, base_dir=tmp_path):
            pass
    needy, two, absent = str(caught.value).split("\n")
    assert needy == (
        "plugins[0]: the plugin `needy` cannot be imported: the module"
        " `a_dependency_that_is_missing` is missing or incomplete (No module named"
        " 'a_dependency_that_is_missing'); `pip install --force-reinstall llmgw-needy` brings what"
        " it depends on."
    )
    assert two == (
        "plugins[1]: the plugin `two` is provided by `llmgw-two` and `other-two`; uninstall all"
        " but one."
    )
    assert absent.startswith("plugins[2]: the plugin `needi` is enabled but not installed")
    assert absent.endswith("; did you mean `needy`?")


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        (
            (PluginConfig("p"), PluginConfig("p")),
            "plugins: `p` is named 2 times; names must differ.",
        ),
        (
            (PluginConfig("../p"),),
            "plugins[0].name: a plugin's name is made of letters, digits, `-`, `_` and inner `.`.",
        ),
    ],
)
async def test_names_are_checked_before_anything_is_loaded(
    tmp_path: Path, sections: tuple[PluginConfig, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        async with Gateway.open(Config(plugins=sections), base_dir=tmp_path):
            pass
    assert str(caught.value) == sentence
