"""What is explained of a call that nobody makes: the question, and the answer as values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.access import Principal, Subject


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A call that might be made: by the holder of `key`, or by whom `subject` or `principal` says,
    for `model`, with the request `body` (what is missing is filled in), confined to `zone`."""

    model: str
    key: str = ""
    subject: Subject | None = None
    principal: Principal | None = None
    body: dict[str, Any] = {}
    zone: str = ""

    def __repr__(self) -> str:
        """Without the key, and without what is asked."""
        return f"Question(model={self.model!r}, zone={self.zone!r})"


class Caller(msgspec.Struct, frozen=True):
    """The ids of who would call."""

    organization_id: str
    team_id: str | None
    user_id: str | None
    key_id: str | None


class Refusal(msgspec.Struct, frozen=True):
    """What the caller would be told instead of a reply, before anything is tried; `decided` is
    what has decided that, which callers are not told."""

    status: int
    code: str
    message: str
    decided: str = ""


class Rule(msgspec.Struct, frozen=True):
    """One thing that has decided something: a word for what kind, and a sentence."""

    kind: str
    sentence: str


class Candidate(msgspec.Struct, frozen=True):
    """A deployment that would be tried. `note` says what might stop it then."""

    deployment: str
    model: str
    backend: str
    zone: str
    note: str = ""


class Left(msgspec.Struct, frozen=True):
    """A deployment that would not be tried, and why."""

    deployment: str
    model: str
    reason: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen to a call. `candidates` in the order in which they would be tried, each
    only if those before it fail; `too_long` and `refused` instead of the others when the request
    turns out to be too long for a model, or is refused for its content. `model` is who serves in
    the end for `asked`. `notes` say what this does not know."""

    asked: str
    model: str
    caller: Caller | None
    refusal: Refusal | None
    rules: tuple[Rule, ...]
    candidates: tuple[Candidate, ...]
    dropped: tuple[Left, ...]
    too_long: tuple[Candidate, ...] = ()
    refused: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()
