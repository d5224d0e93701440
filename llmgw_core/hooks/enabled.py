"""From the configuration's list of plugins to checked classes with typed configurations, or to
every reason why not. Nothing of a plugin but its module runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llmgw_core.config.decode import decode
from llmgw_core.config.errors import ConfigErrors, join, raise_all
from llmgw_core.config.schema import PluginConfig
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.check import check_class
from llmgw_core.hooks.discovery import Installed, distribution, find, installed, load_class
from llmgw_core.hooks.files import load_file
from llmgw_core.hooks.foreign import Foreign

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pluggy


class Enabled(NamedTuple):
    """One enabled plugin before it is made. `config` is None if it declares no `Config`."""

    section: PluginConfig
    plugin: type[Any]
    config: Any
    distribution: str
    version: str


def resolve(
    sections: Sequence[PluginConfig],
    extra: Sequence[tuple[str, type[Any]]],
    manager: pluggy.PluginManager,
) -> list[Enabled]:
    """The enabled plugins in order: `extra` first, then `sections`. Raises `ConfigErrors`."""
    resolver = _Resolver(manager)
    given = {section.name: (section, join("plugins", n)) for n, section in enumerate(sections)}
    raise_all(_duplicates([section.name for section in sections], "`plugins` in the configuration"))
    raise_all(_duplicates([name for name, _ in extra], "the plugins given by the application"))
    enabled: list[Enabled | None] = []
    for name, plugin in extra:
        section, path = given.pop(name, (PluginConfig(name=name), ""))
        enabled.append(resolver.check(section, path, plugin, "", ""))
    for section, path in given.values():
        find_class = resolver.in_file if section.path else resolver.installed
        enabled.append(find_class(section, path))
    raise_all(resolver.errors)
    return [item for item in enabled if item is not None]


def _duplicates(names: list[str], place: str) -> Iterator[ConfigError]:
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield ConfigError(f"{place}: the plugin `{name}` is named twice.")


class _Resolver:
    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.errors: list[ConfigError] = []
        self._manager = manager
        self._plugins: Installed | None = None

    def installed(self, section: PluginConfig, path: str) -> Enabled | None:
        """The plugin of an installed distribution."""
        if self._plugins is None:
            self._plugins = installed()
        try:
            entry = find(section.name, self._plugins, path)
            with Foreign(section.name, "import", "stop"):
                plugin = load_class(section.name, entry, path)
        except ConfigError as error:
            self.errors.append(error)
            return None
        return self.check(section, path, plugin, *distribution(entry))

    def in_file(self, section: PluginConfig, path: str) -> Enabled | None:
        """The plugin of a file."""
        try:
            plugin = load_file(section.name, section.path, join(path, "path"), self._manager)
        except ConfigError as error:
            self.errors.append(error)
            return None
        return self.check(section, path, plugin, "", "")

    def check(
        self, section: PluginConfig, path: str, plugin: type[Any], owner: str, version: str
    ) -> Enabled | None:
        """`plugin` with its configuration, or None after recording what is wrong."""
        before = len(self.errors)
        for sentence in check_class(plugin, self._manager):
            self._error(section, sentence, path)
        config = None
        if len(self.errors) == before:
            config = self._config(section, path, getattr(plugin, "Config", None))
        if len(self.errors) > before:
            return None
        return Enabled(section, plugin, config, owner, version)

    def _config(self, section: PluginConfig, path: str, kind: type[Any] | None) -> Any:
        where = join(path, "config")
        if kind is None:
            if section.config:
                self._error(section, "it takes no configuration; remove `config`.", where)
            return None
        try:
            return decode(section.config, kind, where)
        except ConfigErrors as errors:
            for error in errors.errors:
                self._error(section, error.message, error.path)
            return None

    def _error(self, section: PluginConfig, sentence: str, path: str) -> None:
        self.errors.append(ConfigError(f"the plugin `{section.name}`: {sentence}", path=path))
