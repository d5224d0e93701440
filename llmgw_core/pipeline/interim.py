"""What an attempt that still runs has used so far, as far as that can be said in a moment: a note
is taken of every call, mostly for nothing, so nothing is tokenized for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.usage import Usage
    from llmgw_core.pipeline.attempt import Attempt
    from llmgw_core.pipeline.books import Books
    from llmgw_core.wire.request import RequestView

REPORTED: Final = "reported"
"""The method of an estimate that is what the upstream had reported until then."""


def expected(attempt: Attempt, request: RequestView, books: Books, input_tokens: int) -> Usage:
    """The usage of `attempt`, whose request was sent: an estimate unless its reply is whole."""
    reader, answer, model = attempt.reader, attempt.answer, attempt.deployment.model
    if reader is None:
        if answer is not None and answer.usage is not None:
            return answer.usage
        size = 0 if answer is None else answer.output_bytes
        return books.estimates.by_ratio(model, request, input_tokens, size)
    # The end of a stream is read in one go with its settlement: what is noted of one is not whole.
    usage = reader.usage
    if usage is None:
        return books.estimates.by_ratio(model, request, input_tokens, reader.output_bytes)
    return msgspec.structs.replace(usage, source="estimated", method=REPORTED)
