from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmgw_core.store.engine import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'llmgw.db'}")
    await store.open()
    yield store
    await store.aclose()
