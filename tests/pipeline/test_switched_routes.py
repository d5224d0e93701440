"""Switches that send calls elsewhere, and what they do to aliases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llmgw_core.config.schema_aliases import AliasConfig
from llmgw_core.domain.alias import Variant
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.reloads import changed, with_models

if TYPE_CHECKING:
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

ME = "root"


def error_of(sink: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sink.body)["error"]
    return found


async def test_calls_for_a_routed_model_are_answered_by_the_other(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"a": [at(server)], "b": [at(sibling)]})
    await here.gateway.switches.route("a", "b", reason="x", actor=ME)
    reply = await here.client.chat("a")
    assert reply.status == 200
    assert (len(server.requests), len(sibling.requests)) == (0, 1)
    assert (await here.client.chat("b")).status == 200
    first, second = await here.records()
    assert (first.model, first.served_model, first.deployment) == ("a", "b", "b/a")
    assert (second.model, second.served_model) == ("b", "b")


async def test_two_models_can_be_exchanged_and_one_that_is_off_can_be_replaced(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"a": [at(server)], "b": [at(sibling)]})
    switches = here.gateway.switches
    await switches.route("a", "b", reason="x", actor=ME)
    await switches.route("b", "a", reason="x", actor=ME)
    await here.client.chat("a")
    await here.client.chat("b")
    assert [each.served_model for each in await here.records()] == ["b", "a"]
    await switches.on("route", "b", actor=ME)
    await switches.off("model", "a", reason="x", actor=ME)
    assert (await here.client.chat("a")).status == 200
    await switches.on("route", "a", actor=ME)
    assert (await here.client.chat("a")).status == 503


async def test_a_route_gives_nobody_what_he_may_not_use(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"a": [at(server)], "b": [at(sibling, zone="world")]}, tenant={"zones": ["onprem"]}
    )
    narrow = await here.another("narrow", models=["a"])
    blind = await here.another("blind", models=["b"])
    await here.gateway.switches.route("a", "b", reason="x", actor=ME)
    reply = await narrow.chat("a")
    error = error_of(reply)
    assert (reply.status, error["code"]) == (503, "model_switched_off")
    assert "b" not in error["message"].split()
    assert (await blind.chat("a")).status == 404
    assert (await here.client.chat("a")).status == 403  # zone
    assert (server.requests, sibling.requests) == ([], [])


async def test_a_route_to_a_model_that_a_reload_removes_refuses(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"a": [at(server)], "b": [at(sibling)]})
    await here.gateway.switches.route("a", "b", reason="x", actor=ME)
    await here.gateway.reload(with_models(here, a=[at(server)]))
    assert (await here.client.chat("a")).status == 503
    assert server.requests == []


async def test_a_route_does_not_mix_vectors_of_what_a_reload_has_made_embeddings(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    """Setting such a route is refused; this one was set before."""
    here = await installed({"a": [at(server)], "b": [at(sibling)]})
    await here.gateway.switches.route("a", "b", reason="x", actor=ME)
    embedding = {
        name: served_by(at(upstream), kind="embedding")
        for name, upstream in (("a", server), ("b", sibling))
    }
    await here.gateway.reload(with_models(here, **embedding))
    reply = await here.client.post("/v1/embeddings", {"model": "a", "input": "x"})
    assert (reply.status, error_of(reply)["code"]) == (503, "model_switched_off")
    await here.gateway.switches.on("route", "a", actor=ME)
    await here.client.post("/v1/embeddings", {"model": "a", "input": "x"})
    assert (len(server.requests), len(sibling.requests)) == (1, 0)


async def test_an_alias_and_its_variants_can_be_switched(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed({"a": [at(server)], "b": [at(sibling)]})
    alias = AliasConfig(variants=(Variant("a", 50), Variant("b", 50)), sticky="call")
    await here.gateway.reload(changed(here, aliases={"m": alias}))
    switches = here.gateway.switches
    await switches.off("model", "a", reason="x", actor=ME)
    for _ in range(8):
        assert (await here.client.chat("m")).status == 200
    assert (len(server.requests), len(sibling.requests)) == (0, 8)
    await switches.off("model", "m", reason="x", actor=ME)
    assert (await here.client.chat("m")).status == 503
    assert (await here.client.chat("b")).status == 200
    await switches.route("m", "b", reason="x", actor=ME)
    await switches.on("model", "m", actor=ME)
    assert (await here.client.chat("m")).status == 200
