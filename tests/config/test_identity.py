"""Which deployments are the same for their backend from one configuration to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmgw_core.config.identity import with_identities
from llmgw_core.config.secret_files import FileCredential
from llmgw_core.domain.credential import Credential
from llmgw_core.domain.deployment import Deployment, Model, Timeouts


class Options(msgspec.Struct, frozen=True):
    gguf: str = "x"
    more: Any = 1


class Others(msgspec.Struct, frozen=True):
    gguf: str = "x"
    more: Any = 1


def deployment(**fields: Any) -> Deployment:
    given = {"id": "m/a", "model": "m", "backend": "b", "zone": "z", "upstream_model": "u"}
    return Deployment(**{**given, "options": Options(), **fields})


def identity_of(new: Deployment, *living: Deployment) -> object:
    models = with_identities({"m": Model("m", (new,))}, living)
    [found] = models["m"].deployments
    assert msgspec.structs.replace(found, identity=new.identity).__repr__() == repr(new)
    return found.identity


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"weight": 7},
        {"timeouts": Timeouts(connect=1.0)},
        {"zone": "y"},
        {"options": Options(gguf="x")},
        {"credential": Credential("")},
    ],
)
def test_what_no_backend_prepares_from_leaves_the_identity(fields: dict[str, Any]) -> None:
    old = deployment()
    assert identity_of(deployment(**fields), old) is old.identity


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "m/b"},
        {"backend": "c"},
        {"upstream_model": "v"},
        {"credential": Credential("secret")},
        {"options": Options(gguf="y")},
        {"options": Options(more=True)},
        {"options": Others()},
        {"options": None},
    ],
)
def test_what_a_backend_may_prepare_from_makes_another_one(fields: dict[str, Any]) -> None:
    old, new = deployment(), deployment(**fields)
    assert identity_of(new, old) is new.identity
    assert new.identity is not old.identity


def test_a_secret_file_is_the_same_whatever_it_holds() -> None:
    one, two = (FileCredential(Path("/secret"), value) for value in ("1", "2"))
    old = deployment(credential=one)
    assert identity_of(deployment(credential=two), old) is old.identity


def test_of_several_configurations_the_first_one_that_fits_gives_it() -> None:
    newest, older = deployment(options=Options("y")), deployment()
    oldest = deployment()
    assert identity_of(deployment(), newest, older, oldest) is older.identity
