"""What a plugin's class may not look like, and the sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.errors import listed
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.specs import HOOK_KINDS, hookimpl
from llmgw_core.testing.plugins import host_of

if TYPE_CHECKING:
    from pathlib import Path


class Base:
    def __init__(self, config: Any, context: Any) -> None:
        self.config = config


class Good(Base):
    @hookimpl
    def authorize(self) -> None:
        return None


class Hooks:
    """Classes that are each wrong in one way."""

    class Unknown(Base):
        @hookimpl
        def qqqqqq(self) -> None: ...

    class Unmarked(Good):
        def pre_auth(self) -> None: ...

    class Nothing(Base):
        pass

    class First(Base):
        @hookimpl(tryfirst=True)
        def pre_auth(self) -> None: ...

    class Last(Base):
        @hookimpl(trylast=True)
        def on_usage(self) -> None: ...

    class Wrapper(Base):
        @hookimpl(wrapper=True)
        def pre_route(self) -> Any:
            return (yield)

    class Generator(Base):
        @hookimpl
        async def pre_route(self) -> Any:
            yield 1

    class Coroutine(Base):
        @hookimpl
        async def authorize(self) -> None: ...

    class CoroutineBackends(Base):
        @hookimpl
        async def register_backends(self) -> list[Any]:
            return []

    class Argument(Base):
        @hookimpl
        def pre_auth(self, hed: Any, zzz: Any = 1) -> None: ...

    class NoArguments(Base):
        @hookimpl
        def startup(self, call: Any) -> None: ...

    class Star(Base):
        @hookimpl
        def pre_auth(self, *args: Any, **kwargs: Any) -> None: ...

    class NotAStruct(Good):
        class Config:
            pass

    class Needs(Good):
        needs = frozenset({"stream"})

    class NeedsList(Good):
        needs = ("request",)


ORDER = "which does not exist here: hooks run in the order of `plugins` in the configuration."


@pytest.mark.parametrize(
    ("plugin", "sentences"),
    [
        (
            Hooks.Unknown,
            [f"there is no hook `qqqqqq`; there are {listed(HOOK_KINDS)}."],
        ),
        (
            Hooks.Unmarked,
            ["its `pre_auth` is not marked with `@hookimpl` and would never be called."],
        ),
        (Hooks.Nothing, ["it implements no hook."]),
        (Hooks.First, [f"its `pre_auth` asks for `tryfirst`, {ORDER}"]),
        (Hooks.Last, [f"its `on_usage` asks for `trylast`, {ORDER}"]),
        (
            Hooks.Wrapper,
            [
                f"its `pre_route` asks for `wrapper`, {ORDER}",
                "its `pre_route` contains `yield`; a hook returns.",
            ],
        ),
        (Hooks.Generator, ["its `pre_route` contains `yield`; a hook returns."]),
        (
            Hooks.Coroutine,
            ["its `authorize` is a coroutine; this hook must be a plain function."],
        ),
        (
            Hooks.CoroutineBackends,
            ["its `register_backends` is a coroutine; this hook must be a plain function."],
        ),
        (
            Hooks.Argument,
            [
                "the hook `pre_auth` has no argument `hed`; did you mean `head`?",
                "the hook `pre_auth` has no argument `zzz`; it has `call`, `head`.",
            ],
        ),
        (Hooks.NoArguments, ["the hook `startup` has no argument `call`; it has none."]),
        (
            Hooks.Star,
            [
                "its `pre_auth` must name the arguments that it wants (not `*args: Any`).",
                "its `pre_auth` must name the arguments that it wants (not `**kwargs: Any`).",
            ],
        ),
        (Hooks.NotAStruct, ["its `Config` must be a msgspec.Struct."]),
        (Hooks.Needs, ["its `needs` must be a frozenset of some of `reply`, `request`."]),
        (Hooks.NeedsList, ["its `needs` must be a frozenset of some of `reply`, `request`."]),
    ],
)
def test_a_class_that_would_be_called_wrongly_or_never_is_refused(
    tmp_path: Path, plugin: type[Any], sentences: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        host_of(tmp_path, ("p", plugin))
    assert [line.replace("'", "") for line in str(caught.value).split("\n")] == [
        f"the plugin `p`: {sentence}" for sentence in sentences
    ]
