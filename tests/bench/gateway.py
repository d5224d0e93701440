"""The gateway as the benchmark runs it: configuration, tenants with 1,000 keys, and its books."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from processes import Failed, wait_until
from report import Fact

from llmgw_core.domain.limits import Limits
from llmgw_core.store.engine import Store
from llmgw_core.tenancy.service import Tenancy

if TYPE_CHECKING:
    from pathlib import Path

KEYS = 1000
HUGE = 1_000_000_000_000
METERED = Limits(rpm=HUGE, tpm=HUGE)
"""On the key, its team, its organisation and the model: eight meters on every call."""
_MODEL = """\
  {name}:
    kind: {kind}
    limits: {{rpm: {huge}, tpm: {huge}}}
    prices:
      - from: 2020-01-01
        cost: {{input: 0.1, output: 0.4}}
        charge: {{input: 0.2, output: 0.8}}
    deployments:
"""
_DEPLOYMENT = """\
      - name: fake-{number}
        backend: openai
        zone: onprem
        options: {{base_url: "http://127.0.0.1:{upstream}/v1"}}
"""
_MODELS = (("bench", "chat", 1), ("bench-20", "chat", 20), ("bench-embed", "embedding", 1))
"""Name, kind, and among how many deployments calls are shared out."""


async def _create_tenants(database: Path) -> list[str]:
    """An organisation with a team that has the keys; their plaintexts."""
    store = Store(f"sqlite:///{database}")
    await store.open()
    try:
        tenancy = Tenancy(store, clock=time.time)
        await tenancy.create_organization("bench", models=["*"], limits=METERED, actor="bench")
        await tenancy.create_team("bench", "bench", limits=METERED, actor="bench")
        created = [
            await tenancy.create_key(
                organization="bench", team="bench", limits=METERED, actor="bench"
            )
            for _ in range(KEYS)
        ]
    finally:
        await store.aclose()
    return [plaintext for _, plaintext in created]


def create_tenants(directory: Path) -> Path:
    """A directory with a database and the file `keys`, for gateways to copy."""
    directory.mkdir(parents=True)
    keys = asyncio.run(_create_tenants(directory / "llmgw.db"))
    (directory / "keys").write_text("\n".join(keys) + "\n", encoding="utf-8")
    return directory


class Gateway:
    """A gateway with its files in `directory`, in front of the port `upstream`."""

    def __init__(self, directory: Path, upstream: int, tenants: Path | None = None) -> None:
        directory.mkdir(parents=True)
        self.log = directory / "server.log"
        self._config = directory / "llmgw.yaml"
        self._database = directory / "llmgw.db"
        self._answered = 0
        if tenants is not None:
            shutil.copytree(tenants, directory, dirs_exist_ok=True)
        sections = []
        for name, kind, count in _MODELS:
            sections.append(_MODEL.format(name=name, kind=kind, huge=HUGE))
            sections += (
                _DEPLOYMENT.format(number=number, upstream=upstream) for number in range(count)
            )
        text = "plugins:\n  - name: openai\nmodels:\n" + "".join(sections)
        self._config.write_text(text, encoding="utf-8")

    def command(self, python: Path, server: str) -> list[str]:
        """The command that serves it with `server`, without its port."""
        program = str(python.with_name("llmgw-server"))
        return [program, "serve", "--config", str(self._config), "--server", server]

    def rows(self) -> int:
        """Rows of the ledger."""
        address = f"file:{self._database}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=10)) as database:
            (count,) = database.execute("SELECT count(*) FROM ledger").fetchone()
        return int(count)

    def settle(self, answered: int) -> None:
        """Wait until the ledger has a row for each of `answered` more calls. Raises `Failed`
        when rows are missing or too many."""
        self._answered += answered
        wait_until(lambda: self.rows() >= self._answered, "a ledger row per answer", 60, 0.2)
        self._check()

    def _check(self) -> None:
        if (rows := self.rows()) != self._answered:
            raise Failed(f"{rows} rows in the ledger for {self._answered} answers.")

    def books(self, name: str) -> Fact:
        """A last look at the books, and how many calls they agree on."""
        time.sleep(3)
        self._check()
        return Fact(f"ledger rows = answers on {name}", self._answered, "calls")
