"""The official client over a gateway in the same process: no server, no port, no socket.

python3 openai_client.py llmgw.yaml house-model "What is the capital of France?"
"""

from __future__ import annotations

import sys

from llmgw_core import Principal, SyncGateway


def main(config: str, model: str, question: str) -> None:
    with SyncGateway.open(config) as gateway:
        client = gateway.openai(principal=Principal.of("openai_client.py"))
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=True
        )
        with stream:
            for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
