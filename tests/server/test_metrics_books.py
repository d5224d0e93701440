"""What /metrics and the readiness page say of the way of the books into the ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llmgw_core.testing.installation import at
from llmgw_core.testing.usage_records import usage_record
from llmgw_server.app import create_app

from .conftest import running

if TYPE_CHECKING:
    import pytest

    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

LONG_AGO = 10**18


async def test_what_is_refused_deleted_or_a_bug_is_counted_and_told(
    installed: Install, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def buggy(*_: object) -> int:
        raise RuntimeError("a bug")

    gateway = (await installed({"m": [at(server)]})).gateway
    await gateway.ledger.insert([usage_record(1, started_ns=LONG_AGO)], ())
    await gateway.retention.prune(0)
    gateway.journal.append_usage(usage_record(2, started_ns=LONG_AGO))
    assert await gateway.mover.move_once() == 1
    gateway.journal.append_usage(usage_record(3))
    monkeypatch.setattr(gateway.ledger, "insert", buggy)
    await gateway.mover._try()
    async with running(create_app(gateway), "uvicorn") as serving:
        _, _, metrics = await serving.exchange(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")
        request = b"GET /health/ready HTTP/1.1\r\nhost: a\r\n\r\n"
        status, _, ready = await serving.exchange(request)
    monkeypatch.undo()
    assert {
        "llmgw_ledger_refused_total 1.0",
        "llmgw_ledger_bugs_total 1.0",
        "llmgw_ledger_failures 1.0",
        'llmgw_retention_deleted_total{table="ledger"} 1.0',
        'llmgw_retention_deleted_total{table="usage_hours"} 1.0',
    } <= set(metrics.decode().splitlines())
    refused, failed = json.loads(ready)["notices"]
    assert status == 200
    assert refused.startswith("The ledger has refused records; they are in ")
    assert failed == "Moving into the ledger has failed 1 times in a row."
