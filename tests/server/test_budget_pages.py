"""What a gateway that runs says of budgets: the admin page, and /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from prometheus_client import generate_latest
from starlette.testclient import TestClient

from llmgw_core.config.schema import ServerConfig
from llmgw_core.domain.limits import Budget
from llmgw_core.testing.installation import at
from llmgw_server.app import create_app
from llmgw_server.metrics import registry_of

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

KEY = "an admin key of some length"


async def test_the_page_and_the_metrics_say_how_full_budgets_are(
    installed: Install, server: ModelServer
) -> None:
    budgets = [Budget("tokens", 20, "day", "Europe/Berlin"), Budget("money", 10**9, "total")]
    here = await installed(
        {"m": [at(server)]},
        tenant={
            "team_budgets": budgets,
            "key_budgets": [Budget("tokens", 10**6, "week", shadow=True)],
        },
        server=ServerConfig(admin_key=KEY),
    )
    assert (await here.client.chat("m", max_tokens=3)).status == 200
    assert (await here.client.chat("m", max_tokens=20)).status == 400
    assert (await here.client.chat("m", max_tokens=8)).status == 429
    client = TestClient(create_app(here.gateway))
    assert client.get("/admin/v1/budgets").status_code == 401
    reply = client.get("/admin/v1/budgets", headers={"authorization": f"Bearer {KEY}"})
    told = reply.json()
    assert told["currency"] == "USD"
    found = {(each["level"], each["unit"]): each for each in told["data"]}
    assert found.keys() == {("team", "tokens"), ("team", "money"), ("key", "tokens")}
    day = found["team", "tokens"]
    assert (day["spent"], day["reserved"], day["remaining"]) == (10, 0, 10)
    assert (day["name"], day["timezone"], found["team", "money"]["end_ns"]) == (
        "team",
        "Europe/Berlin",
        None,
    )
    lines = generate_latest(registry_of(here.gateway)).decode().splitlines()
    wanted = ("llmgw_budget_exceeded_total{", "llmgw_budgets{", "llmgw_webhook_messages_total{")
    values = {
        name: float(value)
        for line in lines
        if line.startswith(wanted)
        for name, value in [line.rsplit(" ", 1)]
    }
    labels = 'level="team",period="day",shadow="no",unit="tokens"'
    assert values[f"llmgw_budget_exceeded_total{{{labels}}}"] == 2.0
    labels = 'level="team",percent="50",period="day",unit="tokens"'
    assert values[f"llmgw_budgets{{{labels}}}"] == 1.0
    assert values['llmgw_webhook_messages_total{outcome="dropped"}'] == 0.0
    assert here.tenant.team_id not in str(values)
    assert msgspec.json.decode(reply.content) == told
