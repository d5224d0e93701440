"""One run of wrk against one server, with the CPU time that the server spent on it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from processes import Failed, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Kind:
    """A kind of call. `units` is what one call counts for: 1, or the events of a stream.
    `drain`: seconds after which every call in flight has been answered."""

    name: str
    connections: int
    units: int
    drain: int
    unit: str = "request"


@dataclass(frozen=True)
class Run:
    """`answered` calls in `seconds`, for `cpu` seconds of the server's process tree."""

    answered: int
    seconds: int
    cpu: float
    p50_us: int
    p99_us: int

    def cost(self, kind: Kind) -> float:
        """CPU microseconds per request, or per event of a stream."""
        return self.cpu * 1e6 / (self.answered * kind.units)


def run(
    kind: Kind, port: int, pid: int, keys: Path, *, seconds: int, settle: Callable[[int], None]
) -> Run:
    """Load 127.0.0.1:`port` for `seconds`. `settle` is called with the number of answers and
    returns when the server has done all the work that they caused: it is counted too."""
    env = {**os.environ, "KIND": kind.name, "KEYS": str(keys), "SECONDS": str(seconds)}
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{kind.connections}"]
    command += [f"-d{seconds + kind.drain}", "--timeout", "30s", "-s", str(SCRIPT)]
    before = cpu_seconds(pid)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{port}/"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise Failed(f"wrk failed: {done.stderr or done.stdout}")
    result = json.loads(lines[0].removeprefix("RESULT "))
    if result["failed"] or result["broken"] or not result["answered"]:
        raise Failed(f"{kind.name} on port {port}: not every call was answered well: {result}")
    settle(result["answered"])
    return Run(
        result["answered"], seconds, cpu_seconds(pid) - before, result["p50_us"], result["p99_us"]
    )
