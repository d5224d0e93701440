"""A configuration file into a `Config`, whole or not at all.

Steps: YAML, `${NAME}` and `file:`, types, meaning, paths. Errors of all of them are reported at
once, with their lines.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from llmgw_core.config.decode import decode
from llmgw_core.config.errors import ConfigErrors, raise_all
from llmgw_core.config.fields import fields_of
from llmgw_core.config.positions import located
from llmgw_core.config.schema import (
    AccountingConfig,
    Config,
    ListenerConfig,
    ModelConfig,
    OutgoingConfig,
    PluginConfig,
    ServerConfig,
)
from llmgw_core.config.survey import survey
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


MAX_CHARACTERS: Final = 1 << 24
"""In one file: thousands of models fit in, and a device or a file of something else does not."""


class ConfigFile(msgspec.Struct, frozen=True):
    """A configuration with the text that it was read from; `path` is absolute."""

    path: Path
    text: str
    config: Config

    def locating(self) -> AbstractContextManager[None]:
        """Errors raised inside say where in this file they are."""
        return located(self.text, self.path)

    def __repr__(self) -> str:
        """Without `text`, which may hold secrets."""
        return f"ConfigFile({str(self.path)!r})"


def load(path: Path | str) -> Config:
    """The configuration in the file `path`, with the variables of this process. Raises
    `ConfigErrors`."""
    return load_file(path).config


def load_file(path: Path | str) -> ConfigFile:
    """The configuration in the file `path`, and its text. Raises `ConfigErrors`."""
    text = read_text(path)
    file = Path(path).absolute()
    with located(text, path):
        return ConfigFile(file, text, parse(text, base_dir=file.parent, env=os.environ))


def read_text(path: Path | str) -> str:
    """What the file says. Raises `ConfigErrors`."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        message = f"the configuration file {path} cannot be read: {error.strerror}."
        raise ConfigErrors([ConfigError(message)]) from None
    except ValueError:
        message = f"the configuration file {path} is not UTF-8 text."
        raise ConfigErrors([ConfigError(message)]) from None
    if len(text) > MAX_CHARACTERS:
        message = f"the configuration file {path} has more than {MAX_CHARACTERS} characters."
        raise ConfigErrors([ConfigError(message)])
    return text


def parse(
    text: str,
    *,
    base_dir: Path | str,
    env: Mapping[str, str],
    today: dt.date | None = None,
) -> Config:
    """The configuration in `text`. Relative paths are relative to `base_dir`; `today` (UTC, by
    default the real one) is the day on which models must have a price. Raises `ConfigErrors`."""
    base = Path(base_dir).absolute()
    found = survey(text, base=base, env=env, today=today)
    raise_all(found.errors)
    assert found.config is not None
    return with_absolute_paths(found.config, base)


def typed(config: Config) -> Config:
    """A configuration that a program has built, as if it had been read from a file: lists where
    tuples belong, whole numbers or text where decimals and dates belong are made what they should
    be. Raises `ConfigErrors` for everything else."""
    return decode(_raw(config), Config)


def _raw(value: Any) -> Any:
    """`value` with its structs as mappings, its tuples as lists and its dates as text. What else is
    inside stays the same object: a text from a secret file knows its file."""
    if isinstance(value, msgspec.Struct):
        fields = fields_of(type(value))
        return {field.encode_name: _raw(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {name: _raw(inner) for name, inner in value.items()}
    if isinstance(value, dt.date):
        return value.isoformat()
    return [_raw(inner) for inner in value] if isinstance(value, list | tuple) else value


def with_absolute_paths(config: Config, base: Path) -> Config:
    """`config` with every relative path taken relative to `base`."""
    store = config.store
    return msgspec.structs.replace(
        config,
        store=msgspec.structs.replace(store, url=_absolute_url(store.url, base)),
        accounting=_accounting(config.accounting, base),
        plugins=tuple(_absolute_plugin(plugin, base) for plugin in config.plugins),
        server=_listening(config.server, base),
        outgoing=_outgoing(config.outgoing, base),
        models={name: _absolute_model(model, base) for name, model in config.models.items()},
    )


def _accounting(section: AccountingConfig, base: Path) -> AccountingConfig:
    rates = str(base / section.exchange_rates) if section.exchange_rates else ""
    return msgspec.structs.replace(
        section, journal=str(base / section.journal), exchange_rates=rates
    )


def _absolute_model(model: ModelConfig, base: Path) -> ModelConfig:
    """With absolute paths where its deployments have files of their own."""
    if all(deployment.outgoing is None for deployment in model.deployments):
        return model
    deployments = tuple(
        deployment
        if deployment.outgoing is None
        else msgspec.structs.replace(deployment, outgoing=_outgoing(deployment.outgoing, base))
        for deployment in model.deployments
    )
    return msgspec.structs.replace(model, deployments=deployments)


def _outgoing(section: OutgoingConfig, base: Path) -> OutgoingConfig:
    files = {name: getattr(section, name) for name in ("ca_file", "client_cert", "client_key")}
    absolute = {name: str(base / path) for name, path in files.items() if path}
    return msgspec.structs.replace(section, **absolute)


def _absolute_plugin(plugin: PluginConfig, base: Path) -> PluginConfig:
    """With an absolute `path`, if it has one."""
    if not plugin.path:
        return plugin
    return msgspec.structs.replace(plugin, path=str(base / plugin.path))


_Listening = TypeVar("_Listening", ServerConfig, ListenerConfig)


def _listening(section: _Listening, base: Path) -> _Listening:
    """A listener, and those inside it, with absolute paths."""
    changes: dict[str, object] = {}
    if section.unix:
        changes["unix"] = str(base / section.unix)
    if section.tls is not None:
        files = {name: getattr(section.tls, name) for name in ("certificate", "key", "client_ca")}
        absolute = {name: str(base / path) for name, path in files.items() if path}
        changes["tls"] = msgspec.structs.replace(section.tls, **absolute)
    if isinstance(section, ServerConfig):
        for name in ("admin", "metrics"):
            if (inner := getattr(section, name)) is not None:
                changes[name] = _listening(inner, base)
    return msgspec.structs.replace(section, **changes)


def _absolute_url(url: str, base: Path) -> str:
    """`sqlite:///FILE` with an absolute file; anything else as it is."""
    scheme, found, rest = url.partition(":///")
    if not found or not scheme.startswith("sqlite") or not rest or rest.startswith(":memory:"):
        return url
    return f"{scheme}:///{base / rest}"
