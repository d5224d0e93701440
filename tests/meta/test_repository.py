"""Rules about the repository as a whole: it speaks of itself alone and installs anywhere."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Put together here, so that this file does not contain what it looks for.
REGISTRIES = re.compile(
    "|".join(
        re.escape(left + right)
        for left, right in (
            ("pypi", ".org"),
            ("python", "hosted.org"),
            ("npm", "js.org"),
            ("npm", "js.com"),
            ("proxy.", "golang.org"),
            ("--index", "-url"),
            ("--extra-", "index-url"),
            ("--find", "-links"),
        )
    )
)
PLACES = re.compile(r"(?<![\w.}>/:-])/(?:home|root|Users|work|opt|tmp|var/folders)/\w")
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[^\s;@]+")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _texts(files: list[Path]) -> dict[Path, str]:
    texts: dict[Path, str] = {}
    for path in files:
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            texts[path] = data.decode("utf-8")
    return texts


def test_no_package_registry_is_named(files: list[Path]) -> None:
    found = {str(path): REGISTRIES.findall(text) for path, text in _texts(files).items()}
    assert not {path: hits for path, hits in found.items() if hits}


def test_no_path_of_somebodys_machine_is_named(files: list[Path]) -> None:
    found = {
        str(path): PLACES.findall(text)
        for path, text in _texts(files).items()
        if path.name != "LICENSE"
    }
    assert not {path: hits for path, hits in found.items() if hits}


def test_no_big_file_is_committed(files: list[Path]) -> None:
    assert not [str(path) for path in files if path.stat().st_size > 256 * 1024]


def test_constraints_are_plain_pins(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == sorted(set(pins), key=str.lower)
    assert not [line for line in pins if not PIN.fullmatch(line)]


def test_every_direct_dependency_is_pinned(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_normal(line.split("==")[0]) for line in lines if "==" in line}
    for path in [repository / "pyproject.toml", *repository.glob("plugins/*/pyproject.toml")]:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        wanted = [*project.get("dependencies", []), *(need for extra in extras for need in extra)]
        names = {_normal(re.split(r"[\s\[<>=!~;]", need)[0]) for need in wanted}
        assert names - {"llmgw"} <= pinned, path


def test_plugins_depend_on_the_gateway_and_carry_one_version(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    for path in repository.glob("plugins/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        assert any(re.match(r"llmgw\b", need) for need in project["dependencies"]), path
        assert project["entry-points"]["llmgw"], path
        assert (path.parent / "README.md").is_file(), path
        # What is nothing but data has the day of the data as its version.
        dated = re.fullmatch(r"20\d\d\.\d{1,2}\.\d{1,2}", project["version"])
        assert project["version"] == version or dated, path


def test_the_changelog_has_a_heading_for_this_version(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    changelog = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", changelog, re.MULTILINE)
    assert headings[0] in {"Unreleased", version}
    assert headings == list(dict.fromkeys(headings))


def test_continuous_integration_runs_what_the_readme_says(repository: Path) -> None:
    command = "python3 -m pip install nox && python3 -m nox -s tests"
    assert command in (repository / "README.md").read_text(encoding="utf-8")
    script = repository / ".ci" / "run"
    assert command in script.read_text(encoding="utf-8").splitlines()
    assert script.stat().st_mode & 0o111
