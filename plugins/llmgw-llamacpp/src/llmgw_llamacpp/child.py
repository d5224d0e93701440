"""The child process: one llama.cpp server that ends with its parent. Run as a script.

Imports the standard library and xllamacpp, nothing else, and is the only place that touches
xllamacpp (which has no type stubs). Its conversation with the parent:

- standard input: one line of JSON (`Settings`); afterwards silence, and its end means that the
  parent is gone;
- standard output: lines of JSON (`Report`);
- standard error: what the engine prints.

SIGTERM kills while the model is loading (there is nothing to finish) and stops cleanly after.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
PR_SET_PDEATHSIG = 1
INFO = 3
"""llama.cpp's log level; the levels above it print prompts."""


class Settings(TypedDict):
    """What the parent wants served. `context` is in tokens per slot; 0 and "" leave a choice to
    the engine; `port` 0 lets the kernel choose; `prompt_cache` is in MiB."""

    parent: int
    api_key: str
    gguf: str
    alias: str
    context: int
    parallel: int
    threads: int
    batch: int
    gpu_layers: int
    embedding: bool
    pooling: str
    chat_template: str
    warmup: bool
    prompt_cache: int
    port: int


class Report(TypedDict, total=False):
    """What the parent is told: `port` once the model is loaded and served there, `taken` when
    the configured port belongs to somebody else and another one will be used."""

    port: int
    taken: int


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends (Linux only;
    elsewhere the end of standard input does it, once the model is loaded)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def port_is_free(port: int) -> bool:
    """Whether nobody listens on `port` of the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the engine does: connections in TIME_WAIT are no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def parameters(engine: Any, settings: Settings, port: int) -> Any:
    """The engine's own parameter object for `settings`."""
    chosen = engine.CommonParams()
    chosen.model.path = settings["gguf"]
    chosen.model_alias = {settings["alias"]}
    chosen.hostnames = [HOST]
    chosen.port = port
    chosen.api_keys = [settings["api_key"]]
    chosen.n_parallel = settings["parallel"]
    chosen.n_ctx = settings["context"] * settings["parallel"]
    chosen.n_gpu_layers = settings["gpu_layers"]
    chosen.warmup = settings["warmup"]
    chosen.cache_ram_mib = settings["prompt_cache"]
    chosen.verbosity = INFO
    chosen.offline = True
    chosen.ui = False
    chosen.endpoint_metrics = True
    chosen.use_jinja = True
    if settings["batch"]:
        chosen.n_batch = settings["batch"]
        chosen.n_ubatch = min(chosen.n_ubatch, settings["batch"])
    if settings["threads"]:
        chosen.cpuparams.n_threads = settings["threads"]
        chosen.cpuparams_batch.n_threads = settings["threads"]
    if settings["embedding"]:
        chosen.embedding = True
        # An input is embedded in one physical batch; a smaller one refuses long inputs.
        chosen.n_batch = chosen.n_ubatch = max(chosen.n_batch, settings["context"])
    if settings["pooling"]:
        kinds = engine.llama_pooling_type
        chosen.pooling_type = getattr(kinds, f"LLAMA_POOLING_TYPE_{settings['pooling'].upper()}")
    if settings["chat_template"]:
        chosen.chat_template = Path(settings["chat_template"]).read_text(encoding="utf-8")
    return chosen


def load(settings: Settings, tell: Callable[[Report], None]) -> Any:
    """Load the model and listen; returns the engine's server object.

    Raises RuntimeError when the engine refuses (what is wrong is on standard error)."""
    port = settings["port"]
    if port and not port_is_free(port):
        tell(Report(taken=port))
        port = 0
    engine: Any = importlib.import_module("xllamacpp")
    return engine.Server(parameters(engine, settings, port))


def catch_termination() -> int:
    """From now on SIGTERM makes the returned descriptor readable instead of killing.

    The engine's threads may be the ones to get the signal, so a handler alone would not wake
    the main thread."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    return woken


def wait_for_end(woken: int) -> bool:
    """Block until SIGTERM (True) or until the parent is gone (False)."""
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            return True
        if not os.read(0, 4096):
            return False


def main() -> int:
    """Serve until told to stop. Returns the exit status."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = os.dup(1)
    os.dup2(2, 1)  # what the engine prints must not mix with the reports

    def tell(report: Report) -> None:
        os.write(reports, json.dumps(report).encode() + b"\n")

    with open(0, "rb", buffering=0, closefd=False) as control:
        line = control.readline()
    settings: Settings | None = json.loads(line) if line.endswith(b"\n") else None
    if settings is None or os.getppid() != settings["parent"]:
        return 0
    try:
        server = load(settings, tell)
    except (RuntimeError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    woken = catch_termination()  # before the parent knows that it may ask for it
    tell(Report(port=urlsplit(server.listening_address).port or 0))
    if not wait_for_end(woken):
        os._exit(0)  # nobody is left to wait for answers
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main())
