"""A canary in a running gateway: it gets its share, is taken out when it is worse, and what was
decided survives restarts."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from llmgw_core.domain.alias import CanaryRules, Variant
from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.tenancy.errors import Conflict
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.client import Client
from llmgw_core.testing.installation import at, leading_to, served_by
from llmgw_core.testing.reloads import changed, settled
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.domain.call import Call
    from llmgw_core.domain.switch import SwitchKind
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.testing.installation import Install, Installation
    from llmgw_core.testing.model_server import ModelServer

USERS = [f"user {number}" for number in range(40)]
JSON = ((b"content-type", b"application/json"),)


async def opened(
    installed: Install, server: ModelServer, sibling: ModelServer, **options: Any
) -> Installation:
    return await installed(
        {"old": [at(server)], "new": [at(sibling)]},
        aliases={"chat": leading_to("old", **options)},
    )


async def ask(here: Installation, *users: str, model: str = "chat") -> list[str]:
    """Which model served the call of each user; all succeed."""
    before = len(await here.records())
    for user in users:
        assert (await here.client.chat(model, user=user)).status == 200
    return [record.served_model for record in (await here.records())[before:]]


async def test_a_canary_gets_its_share_step_by_step_and_then_everybody(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await opened(installed, server, sibling)
    rollouts = here.gateway.rollouts
    assert set(await ask(here, *USERS)) == {"old"}
    await rollouts.start("chat", "new", share=30, actor="me")
    first = await ask(here, *USERS)
    assert 1 <= first.count("new") <= 28
    assert await ask(here, *USERS) == first
    await rollouts.step("chat", share=60, actor="me")
    second = await ask(here, *USERS)
    assert {pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]} == {
        ("old", "new")
    }
    await rollouts.promote("chat", actor="me")
    assert set(await ask(here, *USERS)) == {"new"}
    await rollouts.abort("chat", actor="me")
    assert set(await ask(here, *USERS)) == {"old"}


async def test_a_promotion_holds_until_the_configuration_says_something_else(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await opened(installed, server, sibling)
    await here.gateway.rollouts.start("chat", "new", share=50, actor="me")
    await here.gateway.rollouts.promote("chat", actor="me")
    await here.gateway.reload(changed(here, aliases={"chat": leading_to("old", tags=("x",))}))
    assert set(await ask(here, *USERS[:5])) == {"new"}
    await here.gateway.reload(changed(here, aliases={"chat": leading_to("new")}))
    assert set(await ask(here, *USERS[:5])) == {"new"}
    await here.gateway.reload(changed(here, aliases={"chat": leading_to("old", "new=1")}))
    assert set(await ask(here, *USERS)) == {"old", "new"}


async def test_a_canary_that_fails_is_out_and_no_caller_has_noticed(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    heard: list[AuditEntry] = []

    class Hears:
        def __init__(self, config: None, context: PluginContext) -> None:
            pass

        @hookimpl
        def on_audit(self, entry: AuditEntry) -> None:
            heard.append(entry)

    rules = CanaryRules(minimum_calls=10)
    here = await installed(
        {"old": [at(server)], "new": [at(sibling)]},
        aliases={"chat": leading_to("old", canary=rules)},
        plugins=[("hears", Hears)],
    )
    sibling.status = 500
    await here.gateway.rollouts.start("chat", "new", share=50, actor="me")
    assert set(await ask(here, *USERS)) == {"old"}
    tried = len(sibling.requests)
    assert tried <= 13  # the breaker may have kept a few away
    assert set(await ask(here, *USERS)) == {"old"}
    assert len(sibling.requests) == tried
    await here.gateway._foundation.taken_out.written()
    [stored] = await here.gateway.rollouts.find_all()
    assert (stored.state, stored.actor) == ("aborted", "gateway")
    assert re.match(r"1\d of 1\d calls failed; of the baseline's \d", stored.reason)
    [entry] = await here.gateway.tenancy.list_audit(limit=1)
    assert (entry.actor, entry.action, entry.object_id) == ("gateway", "canary_abort", "chat")
    await settled(lambda: bool(heard) and heard[-1].action == "canary_abort")


async def test_a_canary_that_fails_20_percent_is_out_within_100_of_its_calls(
    installed: Install, server: ModelServer
) -> None:
    """Every fifth, over a real socket. How soon it is by chance: tests/routing/test_canary.py."""
    requests = 0

    async def flaky(peer: Peer) -> None:
        nonlocal requests
        while True:
            await peer.request()
            requests += 1
            status = 500 if requests % 5 == 0 else 200
            await peer.send(http_reply(status, server.reply, JSON))

    async with Upstream(flaky) as upstream:
        here = await installed(
            {"old": [at(server)], "new": [at(upstream)]}, aliases={"chat": leading_to("old")}
        )
        await here.gateway.rollouts.start("chat", "new", share=50, actor="me")
        for number in range(250):
            assert (await here.client.chat("chat", user=f"u{number}")).status == 200
        assert 20 <= requests <= 100
        assert here.gateway._foundation.rollouts.of("chat").state == "aborted"  # type: ignore[union-attr]


async def test_a_canary_that_works_stays(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await opened(installed, server, sibling, canary=CanaryRules(minimum_calls=5, slower=50))
    await here.gateway.rollouts.start("chat", "new", share=50, actor="me")
    served = await ask(here, *(f"u{number}" for number in range(100)))
    assert served.count("new") > 30
    [stored] = await here.gateway.rollouts.find_all()
    assert stored.state == "running"


async def test_who_may_not_use_the_canary_never_gets_it(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    far = served_by(at(sibling, zone="world"))
    here = await installed({"old": [at(server)], "new": far}, aliases={"chat": leading_to("old")})
    rollout = await here.gateway.rollouts.start("chat", "new", share=99, actor="me")
    narrow = await here.another("narrow", models=["chat", "old"])
    near = await here.another("near", zones=["onprem"])
    for promoted in (False, True):
        if promoted:
            await here.gateway.rollouts.promote("chat", actor="me")
        for client in (narrow, near):
            for user in USERS:
                assert (await client.chat("chat", user=user)).status == 200
    assert sibling.accepted == 0
    # Their calls count for nobody: compared are callers who could have had the one or the other.
    judge = here.gateway._foundation.rollouts.judge(rollout, CanaryRules())
    assert (judge.errors.calls, judge.errors.baseline.calls) == (0, 0)
    only = await here.another("only", models=["chat", "new"])
    assert (await only.chat("chat")).status == 200
    listed = (await only.get("/v1/models")).json()["data"]
    assert [one["id"] for one in listed] == ["new", "chat"]


async def test_a_canary_opens_an_alias_to_nobody(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    """Who may use what comes, and not what is there, waits until it is promoted."""
    here = await opened(installed, server, sibling)
    only = await here.another("only", models=["chat", "new"])
    await here.gateway.rollouts.start("chat", "new", share=99, actor="me")
    assert {(await only.chat("chat", user=user)).status for user in USERS} == {403}
    assert sibling.accepted == 0


async def test_a_rollout_survives_a_restart_and_reaches_other_processes(
    installed: Install, server: ModelServer, sibling: ModelServer, tmp_path: Path
) -> None:
    here = await opened(installed, server, sibling)
    await here.gateway.rollouts.start("chat", "new", share=50, actor="me")
    first = await ask(here, *USERS)
    directory = tmp_path / "gateway-1"
    accounting = replace(here.gateway.config.accounting, journal=str(tmp_path / "second"))
    config = replace(
        here.gateway.config,
        accounting=accounting,
        store=replace(here.gateway.config.store, staleness=0.05),
    )
    plugins = [("canonical", CanonicalPlugin)]
    async with Gateway.open(config, base_dir=directory, plugins=plugins) as gateway:
        client = Client(gateway, here.tenant.key)
        count = len(sibling.requests)
        for user in USERS:
            assert (await client.chat("chat", user=user)).status == 200
        assert len(sibling.requests) - count == first.count("new")
        # What another process writes is in force here within the bound of the store.
        with sqlite3.connect(directory / "llmgw.db") as connection:
            connection.execute("UPDATE rollouts SET state = 'aborted'")
        connection.close()
        rollouts = gateway._foundation.rollouts
        await settled(lambda: rollouts.of("chat").state == "aborted")  # type: ignore[union-attr]
        count = len(sibling.requests)
        for user in USERS:
            assert (await client.chat("chat", user=user)).status == 200
        assert len(sibling.requests) == count


async def test_a_canary_of_a_model_that_is_gone_is_over(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await opened(installed, server, sibling)
    await here.gateway.rollouts.start("chat", "new", share=90, actor="me")
    models = {"old": here.gateway.config.models["old"]}
    await here.gateway.reload(changed(here, models=models))
    assert set(await ask(here, *USERS[:10])) == {"old"}
    await here.gateway.reload(changed(here, models=models | {"other": models["old"]}))
    with pytest.raises(Conflict, match="`new` is the canary of `chat` already, with 90 %"):
        await here.gateway.rollouts.start("chat", "other", actor="me")


async def test_a_canary_is_measured_against_all_that_the_alias_leads_to(
    installed: Install, server: ModelServer, sibling: ModelServer
) -> None:
    here = await installed(
        {"a": [at(server)], "b": [at(server)], "new": [at(sibling)]},
        aliases={"chat": leading_to("a", "b")},
    )
    await here.gateway.rollouts.start("chat", "new", share=20, actor="me")
    served = await ask(here, *(f"u{number}" for number in range(60)))
    rollouts = here.gateway._foundation.rollouts
    rollout = rollouts.of("chat")
    assert rollout is not None
    judge = rollouts.judge(rollout, CanaryRules())
    assert judge.errors.calls == served.count("new")
    assert judge.errors.baseline.calls == served.count("a") + served.count("b")
    assert rollout.base == (Variant("a"), Variant("b"))


class Denies:
    """Permits nobody the canary."""

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def authorize(self, call: Call, model: str) -> str | None:
        return "not yet" if model == "new" else None


@pytest.mark.parametrize("who", ["plugin", "deployment", "model"])
async def test_calls_that_we_keep_from_the_canary_do_not_count_against_it(
    installed: Install, server: ModelServer, sibling: ModelServer, who: SwitchKind
) -> None:
    here = await installed(
        {"old": [at(server)], "new": [at(sibling)]},
        aliases={"chat": leading_to("old", canary=CanaryRules(minimum_calls=5))},
        plugins=[("denies", Denies)] if who == "plugin" else [],
    )
    rollout = await here.gateway.rollouts.start("chat", "new", share=99, actor="me")
    if who != "plugin":
        name = "new/a" if who == "deployment" else "new"
        await here.gateway.switches.off(who, name, reason="x", actor="me")
    assert set(await ask(here, *USERS)) == {"old"}
    assert sibling.requests == []
    rollouts = here.gateway._foundation.rollouts
    assert rollouts.is_running(rollout)
    assert rollouts.judge(rollout, CanaryRules(minimum_calls=5)).errors.calls == 0
