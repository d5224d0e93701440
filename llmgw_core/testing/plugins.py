"""For tests of plugins: small plugins to stand beside yours, a host made in one line, and the
pytest fixture `distributions`. Import the fixture into a `conftest.py` or a test module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from llmgw_core.hooks.context import PluginContext
from llmgw_core.hooks.host import PluginHost
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.distributions import Distributions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from llmgw_core.config.schema import PluginConfig
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Call, Head
    from llmgw_core.domain.health import HealthChange
    from llmgw_core.domain.reply import Reply
    from llmgw_core.domain.usage import EndedAttempt, UsageRecord
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.wire.request import RequestView


class Recorder:
    """Implements every hook of a call, changes nothing, and notes what it was called with in
    `events`: (hook, argument)."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context
        self.events: list[tuple[str, Any]] = []

    @hookimpl
    def startup(self) -> None:
        """Noted."""
        self.events.append(("startup", None))

    @hookimpl
    def shutdown(self) -> None:
        """Noted."""
        self.events.append(("shutdown", None))

    @hookimpl
    def pre_auth(self, head: Head) -> None:
        """Noted."""
        self.events.append(("pre_auth", head))

    @hookimpl
    def authenticate(self, head: Head) -> None:
        """Noted; not its kind of credentials."""
        self.events.append(("authenticate", head))

    @hookimpl
    def authorize(self, model: str) -> None:
        """Noted; no objection."""
        self.events.append(("authorize", model))

    @hookimpl
    async def pre_route(self, request: RequestView) -> None:
        """Noted."""
        self.events.append(("pre_route", request))

    @hookimpl
    async def post_process(self, reply: Reply) -> None:
        """Noted."""
        self.events.append(("post_process", reply))

    @hookimpl
    def open_stream(self, call: Call) -> None:
        """Noted; no filter, so `post_process` sees streams whole."""
        self.events.append(("open_stream", call))

    @hookimpl
    async def on_usage(self, record: UsageRecord) -> None:
        """Noted."""
        self.events.append(("on_usage", record))

    @hookimpl
    def on_attempt(self, record: EndedAttempt) -> None:
        """Noted."""
        self.events.append(("on_attempt", record))

    @hookimpl
    def on_audit(self, entry: AuditEntry) -> None:
        """Noted."""
        self.events.append(("on_audit", entry))

    @hookimpl
    def on_health(self, change: HealthChange) -> None:
        """Noted."""
        self.events.append(("on_health", change))


class DenyModel:
    """Denies one model, with a sentence."""

    class Config(msgspec.Struct, frozen=True):
        """`model`: the public name."""

        model: str
        sentence: str = "This model is closed."

    def __init__(self, config: DenyModel.Config, context: PluginContext) -> None:
        self._config = config

    @hookimpl
    def authorize(self, model: str) -> str | None:
        """The sentence for the model, None for others."""
        return self._config.sentence if model == self._config.model else None


def authenticator(principal: Principal, header: bytes = b"x-test-principal") -> type[Any]:
    """A plugin class that knows everybody who sends `header` as `principal`."""

    class Authenticator:
        def __init__(self, config: None, context: PluginContext) -> None:
            self.context = context

        @hookimpl
        def authenticate(self, head: Head, call: Call) -> Principal | None:
            return principal if head.get(header) is not None else None

    return Authenticator


def contexts_in(directory: Path) -> Callable[[str], PluginContext]:
    """Contexts whose data directories are below `directory`."""
    return lambda name: PluginContext(name, data_dir=directory / name)


def host_of(
    directory: Path,
    *plugins: tuple[str, type[Any]],
    configs: Sequence[PluginConfig] = (),
    queue_size: int = 100,
) -> PluginHost:
    """A host of plugin classes, without installing anything."""
    return PluginHost.load(
        configs, context_for=contexts_in(directory), extra=plugins, queue_size=queue_size
    )


@pytest.fixture
def distributions(tmp_path: Path) -> Iterator[Distributions]:
    """A place to install made-up distributions for one test."""
    with Distributions(tmp_path / "site") as installed:
        yield installed
