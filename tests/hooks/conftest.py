from __future__ import annotations

import pytest

from llmgw_core.domain.call import Call, Head
from llmgw_core.testing.plugins import distributions

__all__ = ["distributions"]


@pytest.fixture
def head() -> Head:
    return Head("POST", "/v1/chat/completions", [(b"authorization", b"Bearer x")])


@pytest.fixture
def call(head: Head) -> Call:
    return Call("id", "chat.completions", head, 0.0, 0)
