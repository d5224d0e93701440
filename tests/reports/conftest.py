from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.store.engine import Store
from llmgw_core.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    Run = Any


class Books:
    """A ledger that lives as long as the tests of a file, for properties with many examples: each
    takes a model, team and organisation of its own."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.store = Store(url)
        self.run(self.store.open())
        self.ledger = Ledger(self.store)
        self._examples = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`."""
        return self._runner.run(work)

    def example(self) -> int:
        """The number of a new example."""
        self._examples += 1
        return self._examples

    def close(self) -> None:
        """End it."""
        self.run(self.store.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    made = Books(f"sqlite:///{tmp_path_factory.mktemp('books') / 'llmgw.db'}")
    yield made
    made.close()
