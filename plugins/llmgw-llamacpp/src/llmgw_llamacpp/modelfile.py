"""Where a model's weights are: a path, or a file inside an installed Python package.

`package:NAME` or `package:NAME/GLOB` finds the package without importing it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

PACKAGE = "package:"
MAGIC = b"GGUF"


class ModelFileError(Exception):
    """There is no such file, or it is no GGUF file. The text is a sentence."""


def locate(where: str) -> Path:
    """The absolute path of the GGUF file that `where` names. Raises `ModelFileError`."""
    path = in_package(where) if where.startswith(PACKAGE) else absolute(where)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ModelFileError(f"the model file {path} cannot be read: {error.strerror}.") from error
    if magic != MAGIC:
        raise ModelFileError(f"{path} is not a GGUF file.")
    return path


def absolute(where: str) -> Path:
    """The path `where`, with `~` for the home directory; somebody unknown has none."""
    return Path(os.path.expanduser(where)).absolute()  # noqa: PTH111 -- Path's raises for those


def in_package(where: str) -> Path:
    """The one file that `package:NAME[/GLOB]` matches. Raises `ModelFileError`."""
    name, _, glob = where.removeprefix(PACKAGE).partition("/")
    glob = glob or "*.gguf"
    if not name.isidentifier():  # a dotted name would import its parents
        raise ModelFileError(f"{where!r} must be package:NAME or package:NAME/GLOB.")
    if ".." in Path(glob).parts or glob.startswith("/"):
        raise ModelFileError(f"the pattern in {where!r} must stay inside the package.")
    spec = importlib.util.find_spec(name)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ModelFileError(f"no Python package {name!r} is installed here.")
    matches = sorted(path for folder in folders for path in Path(folder).glob(glob))
    if len(matches) != 1:
        found = ", ".join(path.name for path in matches) or "none"
        raise ModelFileError(f"{where!r} must match exactly one file; it matches {found}.")
    return matches[0]
