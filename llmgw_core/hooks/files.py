"""Plugins of one file, named by `path` in the configuration.

The file becomes a module under a name that no other module can have, made of its path and its
text, and `sys.path` is left alone. So the same file is the same module in every gateway of the
process, and a file that has changed is another one.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from importlib.abc import InspectLoader
from importlib.util import decode_source, module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmgw_core.config.errors import listed, suggestion
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from types import CodeType, ModuleType

    import pluggy

_PREFIX: Final = "_llmgw_plugin_file_"


class _Loader(InspectLoader):
    """Loads what was read already, and leaves no compiled file behind."""

    def __init__(self, file: Path, source: bytes) -> None:
        self._file = file
        self._source = source

    def get_source(self, fullname: str) -> str:
        """The text, which tracebacks show lines of."""
        return decode_source(self._source)

    def get_code(self, fullname: str) -> CodeType:
        """Compiled under the name of the file."""
        return self.source_to_code(self._source, str(self._file))


def load_file(name: str, target: str, path: str, manager: pluggy.PluginManager) -> type[Any]:
    """The class of the plugin `name` in `target` (`FILE.py` or `FILE.py:Class`). `path` is the
    place in the configuration. Raises `ConfigError` that names file and line."""
    file, _, wanted = target.partition(".py:")
    where = Path(f"{file}.py" if wanted else file)
    try:
        source = where.read_bytes()
    except OSError as error:
        message = f"the plugin `{name}`: {where} cannot be read: {error.strerror}."
        raise ConfigError(message, path=path) from None
    classes = _classes(_module(name, where, source, path), manager)
    return _the_class(name, where, wanted, classes, path)


def _module(name: str, file: Path, source: bytes, path: str) -> ModuleType:
    digest = hashlib.sha256(str(file).encode() + b"\0" + source).hexdigest()[:32]
    module_name = _PREFIX + digest
    loaded = sys.modules.get(module_name)
    if loaded is not None:
        return loaded
    loader = _Loader(file, source)
    spec = spec_from_loader(module_name, loader, origin=str(file))
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = str(file)
    # Where the types of its annotations are looked up.
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        message = f"the plugin `{name}`: {_place(error, file)}: {_said(error)}"
        raise ConfigError(message, path=path) from error
    return module


def _place(error: BaseException, file: Path) -> str:
    """The file with the last of its lines that had a part in the error."""
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(file):
        return f"{file}, line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file)
    ]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _said(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, ImportError) and error.name:
        return (
            f"the module `{error.name}` is missing or incomplete ({error});"
            " install what the file imports beside the gateway."
        )
    return f"{type(error).__name__}: {text}".removesuffix(": ") + "."


def _classes(module: ModuleType, manager: pluggy.PluginManager) -> dict[str, type[Any]]:
    """The classes of the module itself that implement a hook or mean to."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if isinstance(thing, type)
        and thing.__module__ == module.__name__
        and any(manager.parse_hookimpl_opts(thing, member) for member in dir(thing))
    }


def _the_class(
    name: str, file: Path, wanted: str, classes: dict[str, type[Any]], path: str
) -> type[Any]:
    if wanted in classes:
        return classes[wanted]
    if wanted:
        hint = suggestion(wanted, classes) or f"; there are {listed(classes)}."
        problem = f"no class `{wanted}` with a method marked `@hookimpl`{hint}"
    elif not classes:
        problem = "no class with a method marked `@hookimpl`."
    elif len(classes) > 1:
        first = min(classes)
        problem = f"several plugins: {listed(classes)}; say which one: `path: {file.name}:{first}`."
    else:
        return next(iter(classes.values()))
    raise ConfigError(f"the plugin `{name}`: {file} has {problem}", path=path)
