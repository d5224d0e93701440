"""Everything in one file: the configuration, a plugin of the program's own, and questions.

python3 in_python.py http://127.0.0.1:8000/v1 "What is the capital of France?"
"""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal

import msgspec

from llmgw_core import (
    AccountingConfig,
    Config,
    DeploymentConfig,
    Limits,
    ModelConfig,
    PluginConfig,
    PluginContext,
    PriceEntry,
    Principal,
    RequestView,
    SyncGateway,
    TokenPrices,
    hookimpl,
)


class HouseRules:
    """A plugin that is handed to the gateway; nothing has to be installed."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        longest_answer: int = 100

    def __init__(self, config: Config, context: PluginContext) -> None:
        self.longest_answer = config.longest_answer

    @hookimpl
    def pre_route(self, request: RequestView) -> RequestView | None:
        """Nobody asks for more than the longest answer."""
        if request.max_tokens is not None and request.max_tokens <= self.longest_answer:
            return None
        return request.replace("chat.completions", {"max_tokens": self.longest_answer})


def configuration(base_url: str) -> Config:
    """What could as well be a `llmgw.yaml`."""
    price = TokenPrices(input=Decimal("0.05"), output=Decimal("0.10"))  # per million tokens
    engine = DeploymentConfig(
        "rack-1", backend="openai", zone="onprem", options={"base_url": base_url}
    )
    return Config(
        models={
            "house-model": ModelConfig(
                deployments=(engine,),
                limits=Limits(rpm=600, parallel=32),
                prices=(PriceEntry(dt.date(2026, 1, 1), price),),
            )
        },
        plugins=(
            PluginConfig("openai"),  # upstreams that speak OpenAI's API
            PluginConfig("house-rules", config={"longest_answer": 20}),
        ),
        accounting=AccountingConfig(currency="EUR"),
    )


def main(base_url: str, *questions: str) -> None:
    plugins = [("house-rules", HouseRules)]
    with SyncGateway.open(configuration(base_url), plugins=plugins) as gateway:
        asker = gateway.caller(principal=Principal.of("in_python.py"))
        for question in questions:
            messages = [{"role": "user", "content": question}]
            reply = asker.chat(model="house-model", messages=messages)
            print(f"{reply.text} ({reply.charge:f} EUR)")


if __name__ == "__main__":
    main(*sys.argv[1:])
