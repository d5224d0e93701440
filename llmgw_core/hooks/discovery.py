"""Which plugins are installed: entry points of the group `llmgw`. Reading them looks at every
installed distribution, so it is done once, when a plugin is enabled, and loads nothing else."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.errors import listed, suggestion
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint

GROUP: Final = "llmgw"

Installed = dict[str, tuple["EntryPoint", ...]]
"""Entry points by name; more than one where distributions collide."""


def installed() -> Installed:
    """Every installed plugin, by name. Imports none of them."""
    found: Installed = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def distribution(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that `entry` comes from."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("", "")


def find(name: str, plugins: Mapping[str, tuple[EntryPoint, ...]], path: str) -> EntryPoint:
    """The one entry point of the plugin `name`. Raises `ConfigError`."""
    entries = plugins.get(name, ())
    if not entries:
        # Whoever mistyped a name must not be told to install what somebody published under it.
        remedy = suggestion(name, plugins) or f"; `pip install llmgw-{name}`, if that brings it."
        message = (
            f"the plugin `{name}` is enabled but not installed"
            f" (installed: {listed(plugins)}){remedy}"
        )
        raise ConfigError(message, path=path)
    if len(entries) > 1:
        owners = " and ".join(sorted(f"`{distribution(entry)[0]}`" for entry in entries))
        message = f"the plugin `{name}` is provided by {owners}; uninstall all but one."
        raise ConfigError(message, path=path)
    return entries[0]


def load_class(name: str, entry: EntryPoint, path: str) -> type[Any]:
    """Import the plugin. Raises `ConfigError` when something that it needs is missing."""
    try:
        loaded = entry.load()
    except ImportError as error:
        missing = f"the module `{error.name}`" if error.name else "a module"
        owner = distribution(entry)[0] or f"llmgw-{name}"
        message = (
            f"the plugin `{name}` cannot be imported: {missing} is missing or incomplete ({error});"
            f" `pip install --force-reinstall {owner}` brings what it depends on."
        )
        raise ConfigError(message, path=path) from error
    except AttributeError as error:
        message = f"the plugin `{name}`: its entry point `{entry.value}` names nothing."
        raise ConfigError(message, path=path) from error
    if not isinstance(loaded, type):
        message = f"the plugin `{name}`: its entry point `{entry.value}` does not name a class."
        raise ConfigError(message, path=path)
    return loaded
