"""Which of many calls the ledger has. After a crash that is asked for everything that lies in
journals, before the first call is admitted, so the question is put together once only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from llmgw_core.store.ledger_tables import ledger

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncConnection

_AT_ONCE: Final = 4000
"""Ids per question: below the 32,766 parameters that SQLite takes."""

_texts: dict[str, str] = {}


async def known_calls(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Those of `ids` that are in the ledger."""
    name = connection.dialect.name
    if name not in _texts:
        query = select(ledger.c.call_id).where(ledger.c.call_id.in_([""] * _AT_ONCE))
        compiled = query.compile(
            dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
        )
        _texts[name] = str(compiled)
    asked, known = list(ids), set[str]()
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        part += [""] * (_AT_ONCE - len(part))
        found = await connection.exec_driver_sql(_texts[name], tuple(part))
        known.update(found.scalars())
    return known
