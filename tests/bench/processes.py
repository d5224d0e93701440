"""Child processes on a chosen CPU, and what the kernel says that their trees used."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds per unit of the CPU times in /proc."""


class Failed(Exception):
    """The benchmark cannot say anything: a part of it did not work."""


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants that are alive."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # the thread has ended meanwhile
            continue
        for child in children:
            found.extend(tree(int(child)))
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of the process tree, ended and awaited children included."""
    total = 0
    for member in tree(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total * TICK


def resident_bytes(pid: int) -> int:
    """Resident memory of the process tree; shared pages count once per process."""
    total = 0
    for member in tree(pid):
        try:
            status = Path(f"/proc/{member}/status").read_text()
        except OSError:
            continue
        lines = (line.split() for line in status.splitlines() if line.startswith("VmRSS:"))
        total += sum(int(line[1]) * 1024 for line in lines)
    return total


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """Whether somebody accepts connections on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], what: str, seconds: float, every: float) -> float:
    """Seconds until `condition` held. Raises `Failed` after `seconds`."""
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > seconds:
            raise Failed(f"{what}: not within {seconds:g} s.")
        time.sleep(every)
    return time.perf_counter() - start


@contextmanager
def running(
    command: Sequence[str], cpu: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`command` pinned to `cpu`, its output in `log`; stopped politely afterwards."""
    with log.open("ab") as output:
        pinned = ["taskset", "-c", str(cpu), *command]
        process = subprocess.Popen(
            pinned, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
