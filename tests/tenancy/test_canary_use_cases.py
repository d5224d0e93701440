"""Starting, stepping, promoting and aborting a canary: what is kept, audited and refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.schema import Config, DeploymentConfig, ModelConfig
from llmgw_core.config.schema_aliases import AliasConfig
from llmgw_core.domain.alias import CanaryRules, Variant
from llmgw_core.domain.errors import StoreUnavailable
from llmgw_core.domain.life import Life
from llmgw_core.routing.rollouts import Rollout
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError
from llmgw_core.tenancy.rollouts import Rollouts
from llmgw_core.tenancy.taken_out import TakenOut

if TYPE_CHECKING:
    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.records import AuditEntry
    from llmgw_core.tenancy.service import Tenancy

NOW = 1_800_000_000.0
ME = "root"


def model(**fields: Any) -> ModelConfig:
    return ModelConfig((DeploymentConfig("a", "b", "eu"),), **fields)


CONFIG = Config(
    models={
        "old": model(),
        "new": model(),
        "gone": model(life=Life("retired")),
        "e": model(kind="embedding"),
        "f": model(kind="embedding"),
    },
    aliases={
        "chat": AliasConfig((Variant("old"),), canary=CanaryRules(steps=(5, 25))),
        "embed": AliasConfig((Variant("e"),)),
    },
)


@pytest.fixture
def rollouts(store: Store) -> Rollouts:
    return Rollouts(store, lambda: CONFIG, clock=lambda: NOW)


async def test_a_rollout_goes_through_its_steps(
    rollouts: Rollouts, store: Store, tenancy: Tenancy
) -> None:
    started = await rollouts.start("chat", "new", actor=ME)
    assert started == Rollout("chat", "new", 5.0, "running", "", (Variant("old"),), ME, NOW, NOW)
    assert (await rollouts.step("chat", actor=ME)).share == 25.0
    assert (await rollouts.step("chat", share=40, actor=ME)).share == 40.0
    assert (await rollouts.step("chat", share=10, actor=ME)).share == 10.0
    promoted = await rollouts.promote("chat", actor="boss")
    assert (promoted.state, promoted.share, promoted.actor) == ("promoted", 100.0, "boss")
    assert await rollouts.find_all() == [promoted]
    assert (await rollouts.abort("chat", reason="too dear", actor=ME)).reason == "too dear"
    again = await rollouts.start("chat", "new", share=1.5, actor=ME)
    assert await rollouts.find_all() == [again]
    audited = [(entry.action, entry.object_id) for entry in await tenancy.list_audit()]
    actions = ("start", "abort", "promote", "step", "step", "step", "start")
    assert audited == [(f"canary_{action}", "chat") for action in actions]


async def test_what_was_changed_is_told_and_brought_into_force(store: Store) -> None:
    entries: list[AuditEntry] = []
    applied: list[bool] = []

    async def apply() -> None:
        applied.append(True)

    rollouts = Rollouts(
        store, lambda: CONFIG, clock=lambda: NOW, changed=entries.append, applied=apply
    )
    await rollouts.start("chat", "new", actor=ME)
    await rollouts.step("chat", actor=ME)
    await rollouts.promote("chat", actor=ME)
    await rollouts.abort("chat", actor=ME)
    assert len(entries) == len(applied) == 4
    assert entries[0].details == {"model": "new", "share": 5.0, "reason": ""}


@pytest.mark.parametrize(
    ("act", "kind", "sentence"),
    [
        (lambda r: r.start("chta", "new", actor=ME), NotFound, "no alias `chta`; there are `chat`"),
        (
            lambda r: r.start("old", "new", actor=ME),
            NotFound,
            "`old` is a model and not an alias. A canary takes a share of an alias",
        ),
        (
            lambda r: r.start("chat", "nwe", actor=ME),
            NotFound,
            "no model `nwe`; there are `e`",
        ),
        (lambda r: r.start("chat", "embed", actor=ME), TenancyError, "`embed` is an alias itself"),
        (
            lambda r: r.start("chat", "old", actor=ME),
            TenancyError,
            "`chat` leads to `old` already; change its weight",
        ),
        (
            lambda r: r.start("chat", "e", actor=ME),
            TenancyError,
            "`e` is a model of kind em",
        ),
        (lambda r: r.start("chat", "gone", actor=ME), TenancyError, "`gone` is retired"),
        (
            lambda r: r.start("embed", "f", actor=ME),
            TenancyError,
            "`embed` gives embeddings: vectors of two models cannot be compared",
        ),
        *(
            (
                lambda r, share=share: r.start("chat", "new", share=share, actor=ME),
                TenancyError,
                "greater than 0 and less than 100",
            )
            for share in (0, 100, -5, 101, float("nan"), float("inf"))
        ),
        (lambda r: r.step("chat", actor=ME), Conflict, "No canary of `chat` is under way"),
        (lambda r: r.promote("chat", actor=ME), Conflict, "No canary of `chat` is under way"),
        (lambda r: r.abort("chat", actor=ME), NotFound, "There has been no canary of `chat`"),
        (lambda r: r.step("old", actor=ME), NotFound, "is a model and not an alias"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_a_sentence(
    rollouts: Rollouts, act: Any, kind: type[TenancyError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        await act(rollouts)
    assert await rollouts.find_all() == []


async def test_what_makes_no_sense_while_one_is_under_way(rollouts: Rollouts) -> None:
    await rollouts.start("chat", "new", share=25, actor=ME)
    with pytest.raises(Conflict, match="`new` is the canary of `chat` already, with 25 %"):
        await rollouts.start("chat", "new", actor=ME)
    with pytest.raises(TenancyError, match="`new` has 25 % of `chat` already"):
        await rollouts.step("chat", share=25, actor=ME)
    with pytest.raises(TenancyError, match="25 % was the last step of `chat`; promote it"):
        await rollouts.step("chat", actor=ME)
    await rollouts.promote("chat", actor=ME)
    with pytest.raises(Conflict, match="The last one, `new`, was promoted"):
        await rollouts.step("chat", actor=ME)
    with pytest.raises(Conflict, match="`new` was promoted and is all of `chat`"):
        await rollouts.start("chat", "new", actor=ME)
    await rollouts.abort("chat", actor=ME)
    for reason in ("a\nb", "x" * 501):
        with pytest.raises(TenancyError, match="at most 500 printable characters"):
            await rollouts.abort("chat", reason=reason, actor=ME)
    with pytest.raises(Conflict, match="is out already"):
        await rollouts.abort("chat", actor=ME)


@pytest.mark.parametrize(
    ("models", "variants", "sentence"),
    [
        ({"old": model()}, ("old",), "There is no model `new`; there are `old`"),
        ({"old": model(), "new": model(life=Life("retired"))}, ("old",), "`new` is retired"),
        (
            {"old": model(), "new": model()},
            ("old", "new"),
            "`chat` leads to `new` already",
        ),
    ],
)
async def test_what_the_configuration_has_made_impossible_meanwhile_is_only_aborted(
    rollouts: Rollouts,
    store: Store,
    models: dict[str, ModelConfig],
    variants: tuple[str, ...],
    sentence: str,
) -> None:
    started = await rollouts.start("chat", "new", actor=ME)
    alias = AliasConfig(tuple(Variant(name) for name in variants))
    later = Rollouts(store, lambda: Config(models=models, aliases={"chat": alias}))
    with pytest.raises(TenancyError, match=sentence):
        await later.step("chat", share=50, actor=ME)
    with pytest.raises(TenancyError, match=sentence):
        await later.promote("chat", actor=ME)
    assert await rollouts.find_all() == [started]
    assert (await later.abort("chat", actor=ME)).state == "aborted"


async def test_without_any_alias_the_sentence_says_so(store: Store) -> None:
    rollouts = Rollouts(store, Config)
    with pytest.raises(NotFound, match="There is no alias `chat`; there are none"):
        await rollouts.start("chat", "new", actor=ME)


async def test_what_the_gateway_takes_out_does_not_undo_what_a_person_has_done(
    rollouts: Rollouts,
) -> None:
    running = await rollouts.start("chat", "new", actor=ME)
    promoted = await rollouts.promote("chat", actor=ME)
    await rollouts.take_out(running)
    assert await rollouts.find_all() == [promoted]


async def test_what_was_taken_out_is_written_as_soon_as_the_store_answers(
    rollouts: Rollouts, store: Store
) -> None:
    running = await rollouts.start("chat", "new", actor=ME)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            await store.open()

    taken_out = TakenOut(sleep)
    taken_out.write = rollouts.take_out
    await taken_out.written()
    await store.aclose()
    taken_out.add(running)
    await taken_out.written()
    assert len(waits) == 2
    [stored] = await rollouts.find_all()
    assert (stored.state, stored.actor) == ("aborted", "gateway")
    await taken_out.aclose()


async def test_closing_gives_up_what_cannot_be_written() -> None:
    async def never(rollout: Rollout) -> None:
        raise StoreUnavailable("down")

    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    taken_out = TakenOut(sleep)
    taken_out.write = never
    ended = Rollout("chat", "new", 5.0, "aborted", "", (), ME, NOW, NOW)
    taken_out.add(ended)
    await waiting.wait()
    await taken_out.aclose()
    taken_out.add(ended)
    await taken_out.written()
    await taken_out.aclose()
