"""Which version the schema of a database has, and bringing it to the newest.

The migrations are the files `migrations/versions/NNNN_subject.py`; `NNNN` is the revision and
the highest one is the head. Alembic is imported only when a migration is due.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

MIGRATIONS = Path(__file__).parent / "migrations"
_FILE = re.compile(r"(\d{4})_\w+\.py")


def revisions() -> list[str]:
    """All revisions that this code knows, oldest first; the last one is the head."""
    names = [path.name for path in (MIGRATIONS / "versions").iterdir()]
    return sorted(match[1] for name in names if (match := _FILE.fullmatch(name)))


def migration_due(connection: Connection, known: Collection[str], head: str) -> bool:
    """Whether the database is older than `head`. Raises `ConfigError` when it is newer than
    this code or belongs to something else."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables:
            raise ConfigError("this database belongs to something else; name a new file")
        return True
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version is not None and version not in known:
        raise ConfigError(
            f"the database has schema {version}, which this version of llmgw does not know "
            f"(its newest is {head}); install the version of llmgw that wrote it, or a newer one"
        )
    return version != head


def upgrade(connection: Connection) -> None:
    """Run all migrations that are missing, inside the transaction of `connection`."""
    # Imported here: Alembic costs start-up time and memory that only a migration should pay.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revisions()[-1])
