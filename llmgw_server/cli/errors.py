"""What commands fail with, as one sentence each. Anything else is a bug and shows itself."""

from __future__ import annotations

from llmgw_core.domain.errors import ConfigError, StoreUnavailable
from llmgw_core.statements.errors import StatementError
from llmgw_core.tenancy.errors import TenancyError


class CommandError(Exception):
    """A command cannot be carried out; the text is one sentence with the remedy."""


EXPECTED = (CommandError, ConfigError, StatementError, StoreUnavailable, TenancyError)


def sentence(error: BaseException) -> str:
    """What to tell the user."""
    if isinstance(error, StoreUnavailable):
        return "The database does not answer; is its file readable, and nobody locking it?"
    return str(error)
