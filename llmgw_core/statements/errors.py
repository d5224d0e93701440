"""What can be wrong with a request about statements."""

from __future__ import annotations


class StatementError(Exception):
    """It cannot be done; the text is a sentence for the accountant."""
