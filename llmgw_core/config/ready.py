"""The last step before a configuration is used: it is valid, whoever has made it, and its paths
are absolute."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from llmgw_core.config.errors import raise_all
from llmgw_core.config.load import ConfigFile, typed, with_absolute_paths
from llmgw_core.config.validate import validate

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.config.schema import Config


def checked(source: Config | ConfigFile, base: Path) -> Config:
    """The valid configuration, with absolute paths; those of a `Config` are relative to `base`.
    That of a file has been checked when it was read. Raises `ConfigErrors`."""
    if isinstance(source, ConfigFile):
        return source.config
    config = typed(source)
    raise_all(validate(config, today=dt.datetime.now(dt.UTC).date()))
    return with_absolute_paths(config, base)
