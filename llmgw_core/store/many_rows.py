"""Many rows in one statement. Row by row, the driver's thread would give up the interpreter at
every row and, beside a busy event loop, wait milliseconds to have it back: the books would fall
behind just when there is most to write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Dialect, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

BLOCK: Final = 250
_SIZES: Final = (BLOCK, 50, 10, 1)
"""Rows per statement: few different statements, so that each stays prepared, and less than the
32,766 parameters that SQLite takes."""


class Rows:
    """`INSERT INTO table (columns) VALUES ...` followed by `ending`, as text for several numbers
    of rows."""

    def __init__(
        self, dialect: Dialect, table: Table, columns: Sequence[str], ending: str = ""
    ) -> None:
        self._width = len(columns)
        text = str(insert(table).compile(dialect=dialect, column_keys=list(columns)))
        head, _, row = text.rpartition(" VALUES ")
        self._texts = {rows: f"{head} VALUES {', '.join([row] * rows)}{ending}" for rows in _SIZES}

    async def execute(self, connection: AsyncConnection, values: list[Any]) -> list[Any]:
        """Insert the rows in `values`, one after the other; returns what the statements do."""
        returned: list[Any] = []
        start, end = 0, len(values)
        for rows in _SIZES:
            size = rows * self._width
            while end - start >= size:
                part = tuple(values[start : start + size])
                result = await connection.exec_driver_sql(self._texts[rows], part)
                if result.returns_rows:
                    returned += result.all()
                start += size
        return returned
