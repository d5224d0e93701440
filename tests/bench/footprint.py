"""What an installation weighs: distributions, bytes, time to ready, idle memory."""

from __future__ import annotations

import http.client
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from processes import Failed, free_port, resident_bytes, running, wait_until

ROOT = Path(__file__).parents[2]
_LIST = """
import importlib.metadata, json, sysconfig
names = {d.metadata["Name"] for d in importlib.metadata.distributions()}
print(json.dumps([sorted(names), sysconfig.get_paths()["purelib"]]))
"""


@dataclass(frozen=True)
class Installed:
    """What `llmgw[server]` brings into an empty environment."""

    python: Path
    distributions: int
    bytes: int


def _inventory(python: Path) -> tuple[int, int]:
    """Distributions and bytes of an environment."""
    out = subprocess.run([python, "-c", _LIST], capture_output=True, check=True, text=True).stdout
    names, place = json.loads(out)
    files = (path for path in Path(place).rglob("*") if path.is_file())
    return len(names), sum(path.stat().st_size for path in files)


def install(directory: Path) -> Installed:
    """Install `llmgw[server]` into a new environment in `directory`, then the plugin that the
    benchmark's configuration names (which is not counted)."""
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt")]
    names, size = _inventory(python)
    subprocess.run([*pip, f"{ROOT}[server]"], check=True)
    more_names, more_size = _inventory(python)
    subprocess.run([*pip, "--no-deps", str(ROOT / "plugins" / "llmgw-openai")], check=True)
    return Installed(python, more_names - names, more_size - size)


def is_ready(port: int) -> bool:
    """Whether the gateway on 127.0.0.1:`port` says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Started:
    """Seconds to ready, the first time (which makes the database) and the median of the later
    times, and bytes resident a second after that."""

    first: float
    later: float
    resident: int


def starts(command: list[str], log: Path, times: int) -> Started:
    """Start `command` (without its port) `times` times and once more before."""
    seconds, resident = [], []
    for _ in range(times + 1):
        port = free_port()
        begin = time.perf_counter()
        with running([*command, "--port", str(port)], 0, log) as process:
            wait_until(lambda: is_ready(port), f"readiness, see {log}", 30, 0.01)  # noqa: B023 -- called at once
            seconds.append(time.perf_counter() - begin)
            time.sleep(1)
            if process.poll() is not None:
                raise Failed(f"the gateway stopped by itself, see {log}.")
            resident.append(resident_bytes(process.pid))
    return Started(seconds[0], statistics.median(seconds[1:]), round(statistics.median(resident)))
