"""What holds for every test: no call ends in a bug, none stays on the books."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from llmgw_core.pipeline.stats import Stats
from llmgw_core.store.engine import Store
from llmgw_core.testing.database import provide_database
from llmgw_core.testing.installation import install
from llmgw_core.testing.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from pathlib import Path

    from llmgw_core.testing.installation import Install, Installation


def pytest_configure(config: pytest.Config) -> None:
    """The marker by which a test says that it provokes a bug. No example of a property fails
    because the machine was busy."""
    settings.register_profile("no clock", deadline=None)
    settings.load_profile("no clock")
    config.addinivalue_line(
        "markers", "bugs(count): this many unexpected exceptions are provoked on purpose"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged goes to another process, as half a surrogate pair cannot."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def clean_stats(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Stats]]:
    """Every `Stats` made in a test ends without bugs and without calls in flight."""
    made: list[Stats] = []
    original = Stats.__init__

    def recorded(self: Stats) -> None:
        original(self)
        made.append(self)

    monkeypatch.setattr(Stats, "__init__", recorded)
    yield made
    marker = request.node.get_closest_marker("bugs")
    expected = 0 if marker is None else marker.args[0]
    assert sum(stats.bugs_total for stats in made) == expected
    assert [stats.in_flight for stats in made] == [0] * len(made)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a configuration that says nothing else has its database."""
    return f"sqlite:///{tmp_path / 'llmgw.db'}"


@pytest.fixture
async def store(url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """An open one, with nothing in it."""
    await provide_database(tmp_path)
    store = Store(url)
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """An upstream that works."""
    async with ModelServer() as upstream:
        yield upstream


@pytest.fixture
async def sibling() -> AsyncIterator[ModelServer]:
    """A second one."""
    async with ModelServer() as upstream:
        yield upstream


@pytest.fixture
async def installed(tmp_path: Path) -> AsyncIterator[Install]:
    """Opens gateways with `llmgw_core.testing.installation.install`; the fixture closes them."""
    async with AsyncExitStack() as stack:
        count = 0

        async def opened(models: dict[str, Any], **options: Any) -> Installation:
            nonlocal count
            count += 1
            directory = tmp_path / f"gateway-{count}"
            directory.mkdir()
            return await stack.enter_async_context(install(directory, models, **options))

        yield opened
