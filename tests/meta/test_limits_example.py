"""The example of limits is what the doctor says it is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from llmgw_core.doctor.examine import examine
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from pathlib import Path


async def test_every_limit_of_the_example_bites_but_the_one_in_shadow_mode(
    repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "limits.yaml"
    shutil.copy(repository / "examples" / "limits.yaml", file)
    store = Store(f"sqlite:///{tmp_path}/llmgw.db")
    await store.open()
    tenancy = Tenancy(store)
    await tenancy.create_organization("acme", models=["*"], actor="test")
    await tenancy.create_key(organization="acme", actor="test")
    await store.aclose()
    report = await examine(file)
    assert len(report.verdicts) == 9
    assert [each.id for each in report.problems] == ["model:house-model:output_tpd"]
