"""Everything about a configuration that can be known without starting it, every error at once.

What cannot be looked at because something else is wrong (a backend whose plugin is not there) is
left out rather than guessed at.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.load import read_text, with_absolute_paths
from llmgw_core.config.positions import place
from llmgw_core.config.schema import OutgoingConfig
from llmgw_core.config.survey import survey
from llmgw_core.config.validate_names import warnings
from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.generation import examine_models, load_plugins
from llmgw_core.pricing import catalogue_note, price_problems, price_warnings
from llmgw_core.store.engine import Store
from llmgw_core.store.rollout_queries import targets
from llmgw_core.tenancy.embedding_targets import changed_targets, targets_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.config.schema import Config
    from llmgw_core.domain.deployment import Model
    from llmgw_core.hooks.host import PluginHost

_PLUGIN: Final = re.compile(r"plugins\[(\d+)\]")
_OUTGOING: Final = re.compile(r"(?:^|\.)outgoing\b")
_SUGGESTED: Final = re.compile(r"did you mean `(.+?)`\?")


class Problem(msgspec.Struct, frozen=True):
    """One error for programs. `line` and `column` count from 1, 0 means unknown; `suggestion` is
    the word that was probably meant, empty if none comes near."""

    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str

    @classmethod
    def of(cls, error: ConfigError) -> Problem:
        """The parts of an error."""
        found = _SUGGESTED.search(error.message)
        suggested = found[1] if found else ""
        return cls(error.file, error.line, error.column, error.path, error.message, suggested)


class Checked:
    """What was found. `host` and `models` hold what is in order; none of it has been started."""

    def __init__(self, config: Config | None, errors: list[ConfigError]) -> None:
        self.config = config
        self.errors = errors
        self.warnings: list[ConfigError] = []
        """About what works and is hardly meant."""
        self.notes: list[str] = []
        """What is good to know."""
        self.host: PluginHost | None = None
        self.leaving_is_known = not any(_OUTGOING.search(error.path) for error in errors)
        """Whether connections can be tried: without what `outgoing` says they might leave on a way
        that they must not take."""
        self.models: dict[str, Model] = {}
        self.text = ""
        self.name: Path | str = ""
        self.url: str | None = None
        """Of the store, if it can be one."""


def check_file(path: Path | str, env: Mapping[str, str] | None = None) -> Checked:
    """Look at the configuration in the file `path` with the variables `env` (default: those of
    this process). Raises `ConfigErrors` only when it cannot be read at all."""
    return check_text(read_text(path), path, Path(path).absolute().parent, env)


def check_text(
    text: str, name: Path | str, base: Path, env: Mapping[str, str] | None = None
) -> Checked:
    """As `check_file`, with a text that is called `name`, as if it stood in a file in `base`."""
    found = survey(text, base=base, env=os.environ if env is None else env)
    checked = Checked(found.config, found.errors)
    checked.text, checked.name = text, name
    if found.config is not None:
        before = len(checked.errors)
        config = with_absolute_paths(found.config, base)
        if not checked.leaving_is_known:
            config = _without_outgoing(config)
        _look(checked, config, base)
        later = [error for error in checked.errors[before:] if not found.follows(error)]
        checked.errors[before:] = later
        today = dt.datetime.now(dt.UTC).date()
        told = warnings(found.config, today=today) + _about_prices(checked, config, today)
        checked.warnings = place([each for each in told if not found.follows(each)], text, name)
    checked.errors = place(checked.errors, text, name)
    return checked


async def check_targets(checked: Checked) -> None:
    """Add errors for aliases of embeddings that lead elsewhere than what is recorded in the store.
    It is looked at as it is; where there is none, or it does not answer, nothing is known."""
    if checked.config is None or not targets_of(checked.config) or checked.url is None:
        return
    store = Store(checked.url)
    try:
        await store.open_as_it_is()
        async with store.connect() as connection:
            recorded = await targets(connection)
    except (ConfigError, StoreUnavailable):
        return
    finally:
        await store.aclose()
    found = changed_targets(checked.config, recorded)
    checked.errors += place(found, checked.text, checked.name)


def _about_prices(checked: Checked, config: Config, today: dt.date) -> list[ConfigError]:
    """Warnings, where prices are in order; notes are added."""
    if checked.host is None or price_problems(config, checked.host.prices, today):
        return []
    note = catalogue_note(config, checked.host.prices, today)
    checked.notes += [note] if note else []
    return price_warnings(config, checked.host.prices, today)


def _without_outgoing(config: Config) -> Config:
    """`config` with connections that leave as if nothing was said of them: what is said is wrong,
    and that is known already."""
    models = {}
    for name, model in config.models.items():
        deployments = tuple(replace(each, outgoing=None) for each in model.deployments)
        models[name] = replace(model, deployments=deployments)
    return replace(config, outgoing=OutgoingConfig(), models=models)


def _look(checked: Checked, config: Config, base: Path) -> None:
    try:
        Store(config.store.url)  # not opened: a check changes nothing
        checked.url = config.store.url
    except ConfigError as error:
        checked.errors.append(error)
    lacking = _load_plugins(checked, config, base)
    if checked.host is None:
        return
    checked.models, errors = examine_models(config, checked.host)
    missing = "no enabled plugin has a backend"
    checked.errors += [e for e in errors if not (lacking and e.message.startswith(missing))]


def _load_plugins(checked: Checked, config: Config, base: Path) -> bool:
    """Load what can be loaded; whether some plugin is lacking."""
    try:
        checked.host = load_plugins(config, base)
    except ConfigError as error:
        errors = error.errors if isinstance(error, ConfigErrors) else (error,)
        checked.errors += errors
        wrong = {int(found[1]) for each in errors if (found := _PLUGIN.match(each.path))}
        rest = tuple(p for index, p in enumerate(config.plugins) if index not in wrong)
        if wrong:
            try:
                checked.host = load_plugins(replace(config, plugins=rest), base)
            except ConfigError:
                return True  # the first errors have to be mended before one can tell
        return True
    return False
