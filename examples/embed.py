"""The gateway inside a program: no server, no port; a streamed answer and what it cost.

python3 embed.py llmgw.yaml house-model "What is the capital of France?"
"""

from __future__ import annotations

import asyncio
import sys

from llmgw_core import Gateway, GatewayError, Principal


async def answer(gateway: Gateway, model: str, question: str) -> None:
    """Print the answer as it comes, and what it cost."""
    # Who asks: this program says so itself, and its users need no keys. The ids go on the books.
    visitor = Principal.of("embed.py", user="visitor-7", models=["house-*"])
    messages = [{"role": "user", "content": question}]
    async with gateway.chat_stream(model=model, messages=messages, principal=visitor) as stream:
        async for event in stream:  # leave it whenever you like: that ends the call
            print(event.text, end="", flush=True)
    usage, currency = stream.usage, gateway.config.accounting.currency
    if usage is not None:
        print(
            f"\n{usage.input_tokens} + {usage.output_tokens} tokens, {stream.charge:f} {currency}"
        )


async def main(config: str, model: str, question: str) -> int:
    async with Gateway.open(config) as gateway:
        try:
            await answer(gateway, model, question)
        except GatewayError as error:
            print(f"{error.message} ({error.status} {error.code}, {error.request_id})")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
