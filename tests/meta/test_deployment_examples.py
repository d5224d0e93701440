"""examples/deploy: the unit and the container are as hardened as they say. No container runtime is
needed here, and none is run: the Containerfile is read, and its commands are tried one by one."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from llmgw_core.config.load import parse
from llmgw_server import cli

if TYPE_CHECKING:
    from pathlib import Path

EXPOSURE = 2.0
"""Of `systemd-analyze security`, from 0 (none) to 10."""


@pytest.fixture(scope="module")
def deploy(repository: Path) -> Path:
    return repository / "examples" / "deploy"


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_says_what_a_hardened_one_has_to(deploy: Path) -> None:
    unit = settings(deploy / "llmgw.service")
    for name, value in (
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("DynamicUser", "yes"),
        ("CapabilityBoundingSet", ""),
        ("StateDirectory", "llmgw"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Type", "exec"),
    ):
        assert unit[name] == [value], name
    drain = parse("{}", base_dir=deploy, env={}).server.drain_seconds
    assert float(unit["TimeoutStopSec"][0]) > drain
    words = shlex.split(unit["ExecStart"][0])[1:]
    assert cli._parser(words[0]).parse_args(words)


def test_the_units_configuration_is_valid_with_the_units_credentials(
    deploy: Path, tmp_path: Path
) -> None:
    unit = settings(deploy / "llmgw.service")
    for credential in unit["LoadCredential"]:
        (tmp_path / credential.partition(":")[0]).write_text("a secret of some length")
    text = (deploy / "llmgw.yaml").read_text(encoding="utf-8")
    config = parse(text, base_dir=tmp_path, env={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert config.server.tls is not None
    assert config.server.tls.key == str(tmp_path / "tls-key")
    assert config.server.admin_key == "a secret of some length"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_no_fault_with_the_unit(deploy: Path, tmp_path: Path) -> None:
    unit = tmp_path / "llmgw.service"
    text = (deploy / "llmgw.service").read_text(encoding="utf-8")
    # It looks whether the program is there; all the rest is as it is.
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
    assert exposure is not None, judged.stderr
    assert float(exposure[1]) <= EXPOSURE


def instructions(deploy: Path) -> list[tuple[str, str]]:
    text = (deploy / "Containerfile").read_text(encoding="utf-8")
    lines = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ").splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def test_the_container_runs_as_nobody_from_a_second_stage(deploy: Path) -> None:
    steps = instructions(deploy)
    words = [word for word, _ in steps]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    assert set(words) <= known | {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    last = len(words) - words[::-1].index("FROM") - 1
    assert words.count("FROM") == 2
    bases = {rest.split()[0] for word, rest in steps if word == "FROM"}
    assert all(re.fullmatch(r"python:3\.\d+-slim", base) for base in bases)
    final = dict(steps[last:])
    assert "RUN" not in final
    user, group = final["USER"].split(":")
    assert min(int(user), int(group)) > 0
    assert final["WORKDIR"] == final["VOLUME"] == "/var/lib/llmgw"
    assert "--chown=65532:65532" in final["COPY"]
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= set(final)


def test_what_the_container_copies_and_starts_is_there(deploy: Path, repository: Path) -> None:
    for word, rest in instructions(deploy):
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (repository / source).exists(), source
    steps = dict(instructions(deploy))
    command = json.loads(steps["ENTRYPOINT"]) + json.loads(steps["CMD"])
    assert cli._parser(command[1]).parse_args(command[1:])


class Health(http.server.BaseHTTPRequestHandler):
    """Ready, or not."""

    status = 200
    asked: list[str] = []  # noqa: RUF012 -- shared by all requests on purpose

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_of_the_container_tells_ready_from_not(
    deploy: Path, status: int, code: int
) -> None:
    check = dict(instructions(deploy))["HEALTHCHECK"]
    program, *arguments = json.loads(check[check.index("[") :])
    assert program == "python"
    handler = type("Handler", (Health,), {"status": status, "asked": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = [word.replace(":4000/", f":{server.server_port}/") for word in arguments]
        done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        server.shutdown()
    assert done.returncode == code
    assert handler.asked == ["/health/ready"]  # type: ignore[attr-defined]
