"""Everything that is wrong with the text of a configuration, in one go.

A step that fails does not keep the later ones from looking at the rest: what does not fit is
taken out first (see `repair`), and errors that only follow from that are left out.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from llmgw_core.config.decode import decode, explain
from llmgw_core.config.document import read_document
from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.repair import Repair
from llmgw_core.config.schema import Config
from llmgw_core.config.secrets import Resolver
from llmgw_core.config.validate import validate
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Survey:
    """What was found: `config` is what could be made of the text, None if nothing could;
    `errors` is empty if and only if it says exactly what the text says."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self.errors: list[ConfigError] = []
        self._repair = Repair()

    def follows(self, error: ConfigError) -> bool:
        """Whether an error of a later step is about something that is no word of the text."""
        return self._repair.covers(error.path)

    def look(self, text: str, base: Path, env: Mapping[str, str], today: dt.date | None) -> None:
        """Go through all steps; relative paths are relative to `base`."""
        raw = read_document(text)
        resolver = Resolver(base, env)
        resolved = resolver.resolve({} if raw is None else raw)
        self.errors += resolver.errors
        self._repair.paths |= {error.path for error in resolver.errors}
        if not isinstance(resolved, dict):
            message = "the configuration must be a mapping of sections."
            self.errors.append(ConfigError(message))
            return
        self.errors += [error for error in explain(resolved, Config, "") if not self.follows(error)]
        try:
            self.config = decode(self._repair.value(resolved, Config), Config)
        except ConfigErrors as error:
            self.errors += error.errors
            return
        day = today or dt.datetime.now(dt.UTC).date()
        found = validate(self.config, today=day)
        self.errors += [error for error in found if not self.follows(error)]


def survey(
    text: str, *, base: Path, env: Mapping[str, str], today: dt.date | None = None
) -> Survey:
    """Look at `text`. `today` (UTC, by default the real one) is the day on which models must
    have a price."""
    found = Survey()
    try:
        found.look(text, base, env, today)
    except ConfigErrors as error:
        found.errors += error.errors
    return found
