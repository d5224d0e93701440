from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from llmgw_core.doctor.examine import examine
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from llmgw_core.doctor.verdict import Verdict

    Examined = Callable[..., dict[str, Verdict]]

CONFIG = """
models:
  gpt-a:
    {model}
    deployments: [{{name: one, backend: openai, zone: eu, {deployment}}}]
  gpt-b:
    deployments: [{{name: one, backend: openai, zone: eu, options: {{base_url: "http://x.invalid"}}}}]
  vectors:
    kind: embedding
    deployments: [{{name: one, backend: openai, zone: eu}}]
aliases:
  house: {{variants: [{{model: gpt-a}}], limits: {alias}}}
plugins:
  - {{name: openai}}
{plugins}
accounting: {{unpriced: zero}}
{more}
"""


@pytest.fixture
def examined(tmp_path: Path) -> Examined:
    """What the doctor says of an installation, by the id of the limit without the owner's own."""

    async def run(
        tenants: Callable[[Tenancy], Awaitable[None]] | None, parts: dict[str, str]
    ) -> dict[str, Verdict]:
        places = {"model": "", "deployment": "", "alias": "{}", "more": "", "plugins": "", **parts}
        file = tmp_path / "llmgw.yaml"
        file.write_text(CONFIG.format(**places))
        store = Store(f"sqlite:///{tmp_path}/llmgw.db")
        await store.open()
        if tenants is not None:
            await tenants(Tenancy(store))
        await store.aclose()
        report = await examine(file)
        assert not (tmp_path / "journal").exists()
        names = [each.id.removesuffix(":burst").rpartition(":")[2] for each in report.verdicts]
        found = {
            f"{each.where}: {name}": each for name, each in zip(names, report.verdicts, strict=True)
        }
        assert len(found) == len(report.verdicts)
        return found

    return lambda tenants=None, **parts: asyncio.run(run(tenants, parts))
