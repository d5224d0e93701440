"""A plan without a gateway that runs: everything is composed as for a start, and not started.

Plugins are made and asked for nothing but permissions; no journal is written, no engine started and
nothing sent. What only a running gateway knows (health, load, meters) is as if it had just begun.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmgw_core.config.load import load_file
from llmgw_core.config.ready import checked
from llmgw_core.foundation import Foundation
from llmgw_core.generation import Generation, load_models, load_plugins, own_parts
from llmgw_core.pipeline.deployment_rows import deployment_rows

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.config.load import ConfigFile
    from llmgw_core.hooks.host import PluginHost
    from llmgw_core.pipeline.deployment_rows import DeploymentRow
    from llmgw_core.pipeline.explanation import Explanation, Question

_SEGMENT_BYTES = 1 << 16
_CLOSE_SECONDS = 1.0


async def explain(path: Path | str, question: Question) -> Explanation:
    """What would happen to a call in a gateway with the configuration in the file `path` that has
    just started. Raises `ConfigError`, `StoreUnavailable`, and `GatewayError` for a request that is
    none."""
    async with AsyncExitStack() as stack:
        generation, _ = await _composed(stack, load_file(path))
        return await generation.explainer.explain(question)


async def rows(path: Path | str) -> list[DeploymentRow]:
    """The deployments of such a gateway: what is configured, and what is switched off. Raises as
    `explain`."""
    async with AsyncExitStack() as stack:
        generation, foundation = await _composed(stack, load_file(path))
        return deployment_rows(generation.roster.members.values(), foundation.memory)


async def _composed(stack: AsyncExitStack, file: ConfigFile) -> tuple[Generation, Foundation]:
    directory = stack.enter_context(TemporaryDirectory(prefix="llmgw-"))
    stack.enter_context(file.locating())
    config = checked(file, file.path.parent)
    accounting = replace(config.accounting, journal=directory, segment_bytes=_SEGMENT_BYTES)
    config = replace(config, accounting=accounting)
    own = own_parts(time.monotonic)
    host = load_plugins(config, file.path.parent, own=own)
    stack.push_async_callback(_close, host)
    foundation = await Foundation.open(stack, config, own)
    stack.push_async_callback(foundation.transports.aclose)
    stack.push_async_callback(foundation.retain, ())
    stack.callback(foundation.switchboard.close)
    generation = Generation(1, config, host, load_models(config, host), foundation)
    await foundation.control.refresh()
    return generation, foundation


async def _close(host: PluginHost) -> None:
    await host.shutdown(_CLOSE_SECONDS)
