"""What can be wrong with a request to change the tenancy."""

from __future__ import annotations


class TenancyError(Exception):
    """The request cannot be carried out; the text is a sentence for the administrator."""


class NotFound(TenancyError):
    """Nothing has this id or name."""


class Conflict(TenancyError):
    """The name is taken, or the state of the object does not allow the change."""
