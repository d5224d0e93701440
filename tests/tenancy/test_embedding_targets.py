"""An alias of embeddings keeps its model and its dimensions, unless somebody insists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmgw_core.config.errors import ConfigErrors
from llmgw_core.config.schema import Config
from llmgw_core.domain.alias import EmbeddingTarget
from llmgw_core.gateway import Gateway
from llmgw_core.store.rollout_queries import targets as recorded
from llmgw_core.tenancy.embedding_targets import EmbeddingTargets, changed_targets, targets_of
from llmgw_core.tenancy.errors import Conflict, NotFound, TenancyError
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, leading_to, served_by
from llmgw_core.testing.reloads import changed

if TYPE_CHECKING:
    from pathlib import Path

    from llmgw_core.store.engine import Store
    from llmgw_core.tenancy.service import Tenancy
    from llmgw_core.testing.installation import Install
    from llmgw_core.testing.model_server import ModelServer

ME = "root"


def config(target: str = "bge", dimensions: int | None = 1024, **more: Any) -> Config:
    models = {
        target: served_by(at(1), kind="embedding", dimensions=dimensions),
        "chatty": served_by(at(1)),
    }
    return Config(models=models, aliases={"embed": leading_to(target), **more})


@pytest.fixture
def targets(store: Store) -> EmbeddingTargets:
    return EmbeddingTargets(store, clock=lambda: 1_800_000_000.0)


async def in_force(targets: EmbeddingTargets, wanted: Config) -> None:
    async with targets.keeping(wanted):
        pass


def test_only_aliases_of_embeddings_have_targets() -> None:
    found = targets_of(config(talk=leading_to("chatty")))
    assert found == {"embed": EmbeddingTarget("bge", 1024)}
    assert targets_of(Config(aliases={"x": leading_to(), "y": leading_to("nothing")})) == {}


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        (("bge", 1024), ("bge", 1024), False),
        (("bge", 1024), ("bge", 768), True),
        (("bge", 1024), ("e5", 1024), True),
        (("bge", None), ("bge", 768), False),
        (("bge", 768), ("bge", None), False),
        (("bge", None), ("e5", None), True),
    ],
)
def test_what_makes_stored_vectors_useless(old: Any, new: Any, replaced: bool) -> None:
    known = {"embed": EmbeddingTarget(*old), "other": EmbeddingTarget("x")}
    assert bool(changed_targets(config(*new), known)) is replaced


async def test_another_target_is_refused_and_says_what_to_do(targets: EmbeddingTargets) -> None:
    await in_force(targets, config())
    await in_force(targets, config())
    with pytest.raises(ConfigErrors) as refused:
        await in_force(targets, config("e5", None))
    assert str(refused.value) == (
        "aliases.embed: the alias has led to `bge` with 1024 dimensions until now and would lead"
        " to `e5`: vectors that callers have stored could not be compared with new ones. Give the"
        " new model an alias of its own, or, if it is meant, run `models retarget embed --force`."
    )


async def test_dimensions_that_are_given_later_are_recorded_then(
    targets: EmbeddingTargets,
) -> None:
    await in_force(targets, config(dimensions=None))
    await in_force(targets, config(dimensions=1024))
    await in_force(targets, config(dimensions=None))
    with pytest.raises(ConfigErrors, match="1024 dimensions until now"):
        await in_force(targets, config(dimensions=768))


async def test_what_never_was_in_force_is_not_recorded(targets: EmbeddingTargets) -> None:
    with pytest.raises(RuntimeError):
        async with targets.keeping(config("e5")):
            raise RuntimeError
    await in_force(targets, config())


async def test_whoever_insists_is_heard_and_audited(
    targets: EmbeddingTargets, tenancy: Tenancy
) -> None:
    await in_force(targets, config())
    new = config("e5", 768)
    with pytest.raises(TenancyError, match="If it is meant, repeat it with --force"):
        await targets.retarget(new, "embed", force=False, actor=ME)
    done = await targets.retarget(new, "embed", force=True, actor=ME)
    assert done == (
        "`embed` may lead to `e5` with 768 dimensions from now on, in place of `bge` with 1024"
        " dimensions."
    )
    [entry] = await tenancy.list_audit()
    assert (entry.actor, entry.action, entry.object_id) == (ME, "retarget", "embed")
    await in_force(targets, new)
    with pytest.raises(ConfigErrors):
        await in_force(targets, config())
    with pytest.raises(Conflict, match="as is recorded"):
        await targets.retarget(new, "embed", force=True, actor=ME)
    with pytest.raises(NotFound, match="There is no alias `talk` of embeddings"):
        await targets.retarget(config(talk=leading_to("chatty")), "talk", force=True, actor=ME)


async def test_while_the_store_is_down_what_was_read_last_holds(
    targets: EmbeddingTargets, store: Store
) -> None:
    await in_force(targets, config())
    await store.aclose()
    await in_force(targets, config())
    with pytest.raises(ConfigErrors):
        await in_force(targets, config("e5"))
    # What is new is kept in mind, and written with the next one that comes into force.
    more = config(second=leading_to("bge"))
    await in_force(targets, more)
    await store.open()
    await in_force(targets, more)
    async with store.connect() as connection:
        assert set(await recorded(connection)) == {"embed", "second"}


async def test_a_reload_and_a_restart_are_refused_alike(
    installed: Install, server: ModelServer, tmp_path: Path
) -> None:
    bge = served_by(at(server), kind="embedding", dimensions=1024)
    e5 = served_by(at(server), kind="embedding", dimensions=1024)
    here = await installed({"bge": bge, "e5": e5}, aliases={"embed": leading_to("bge")})
    other = changed(here, aliases={"embed": leading_to("e5")})
    with pytest.raises(ConfigErrors, match="has led to `bge` with 1024 dimensions"):
        await here.gateway.reload(other)
    assert here.gateway.generation == 1
    assert (await here.client.embed("embed")).status == 200
    accounting = changed(here).accounting
    moved = type(accounting)(journal=str(tmp_path / "another"))
    other = changed(here, aliases={"embed": leading_to("e5")}, accounting=moved)
    with pytest.raises(ConfigErrors, match="models retarget embed --force"):
        async with Gateway.open(
            other, base_dir=tmp_path / "gateway-1", plugins=[("canonical", CanonicalPlugin)]
        ):
            pass
