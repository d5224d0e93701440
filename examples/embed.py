"""The gateway inside a program: no server, no port; a streamed answer and what it cost.

python3 embed.py llmgw.yaml house-model "What is the capital of France?"
"""

from __future__ import annotations

import asyncio
import json
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

from llmgw_core import Gateway, Head, PluginContext, UsageRecord, hookimpl
from llmgw_core.tenancy.records import ORGANIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ACTOR = "embed.py"  # who did it, in the audit log


class Bill:
    """A plugin of this program: it is handed to the gateway, nothing has to be installed."""

    def __init__(self, config: None, context: PluginContext) -> None:
        self.context = context

    @hookimpl
    def on_usage(self, record: UsageRecord) -> None:
        usage, amount = record.usage, Decimal(record.charge).scaleb(-9)  # exact
        print(
            f"\n{usage.input_tokens} + {usage.output_tokens} tokens, {amount:f} {record.currency}"
        )


class Body:
    """The request."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        return self.data


class Printer:
    """Prints the answer as it arrives."""

    gone = False  # set it, and call `on_gone`, when the reader of the answer has left
    on_gone: Callable[[], None] | None = None
    status = 0

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.status = status

    async def write(self, data: bytes) -> None:
        if self.status != 200:
            print(data.decode())
            return
        for line in data.splitlines():  # whole events, always
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    print(choice["delta"].get("content") or "", end="", flush=True)

    async def finish(self, data: bytes = b"") -> None:
        await self.write(data)


async def new_key(gateway: Gateway, organization: str) -> str:
    """A key of an organisation that may use every model."""
    tenancy = gateway.tenancy
    if organization not in {known.name for known in await tenancy.find_all(ORGANIZATION)}:
        await tenancy.create_organization(organization, models=["*"], actor=ACTOR)
    _, key = await tenancy.create_key(organization=organization, actor=ACTOR)
    return key


async def main(config: str, model: str, question: str) -> bool:
    printer = Printer()
    async with Gateway.open(config, plugins=[("bill", Bill)]) as gateway:
        key = await new_key(gateway, "embedded")
        head = Head("POST", "/v1/chat/completions", [(b"authorization", b"Bearer " + key.encode())])
        messages = [{"role": "user", "content": question}]
        request = {"model": model, "stream": True, "messages": messages}
        await gateway.handle(head, Body(json.dumps(request).encode()), printer)
    return printer.status == 200


if __name__ == "__main__":
    sys.exit(not asyncio.run(main(*sys.argv[1:])))
