"""The plugin: every settled call becomes one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.specs import hookimpl
from llmgw_jsonlog.line import encode_line
from llmgw_jsonlog.outlet import FileOutlet, StreamOutlet

if TYPE_CHECKING:
    from llmgw_core.domain.usage import UsageRecord
    from llmgw_core.hooks.context import PluginContext
    from llmgw_jsonlog.outlet import Outlet

COMPLAINT_INTERVAL = 60.0
"""Seconds between two log messages about lines that could not be written."""
WRITTEN = "lines_written_total"
LOST = "lines_lost_total"
STREAMS = {"stdout": 1, "stderr": 2}


class JsonLogPlugin:
    """Writes lines to `output` and never fails because of it."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """`output`: `stdout`, `stderr`, or the path of a file (its directory must exist). A
        relative path is relative to the process's working directory."""

        output: str = "stdout"

    def __init__(self, config: Config, context: PluginContext) -> None:
        """Raises `ConfigError` when `output` cannot become a file: found now, it costs no line."""
        self._output = config.output
        # Path's own expansion raises where there is no such user.
        self._path = Path(os.path.expanduser(config.output)).absolute()  # noqa: PTH111
        if config.output not in STREAMS and (self._path.is_dir() or not self._path.parent.is_dir()):
            raise ConfigError(
                f"the plugin `{context.name}`: `output` must be `stdout`, `stderr` or a file in a"
                f" directory that exists; {self._path} is none."
            )
        self._logger = context.logger
        self._now = context.clock
        self._counters = context.metrics.counters
        self._outlet: Outlet | None = None
        self._silent_until = float("-inf")

    @hookimpl
    async def on_usage(self, record: UsageRecord) -> None:
        """Write one line."""
        if self._outlet is None:
            self._outlet = self._open()
        try:
            await self._outlet.write(encode_line(record))
        except OSError as error:
            self._lose(error)
        else:
            self._counters[WRITTEN] += 1

    @hookimpl
    async def shutdown(self) -> None:
        """Close the file."""
        if self._outlet is not None:
            self._outlet.close()

    def _open(self) -> Outlet:
        descriptor = STREAMS.get(self._output)
        if descriptor is not None:
            return StreamOutlet(descriptor)
        return FileOutlet(self._path)

    def _lose(self, error: OSError) -> None:
        self._counters[LOST] += 1
        if self._now() >= self._silent_until:
            self._silent_until = self._now() + COMPLAINT_INTERVAL
            self._logger.warning(
                "%d lines could not be written to %s so far: %s",
                self._counters[LOST],
                self._output,
                error,
            )
