"""What an upstream says about a request that it refuses, as the caller may hear it.

Its sentence, type, param and code are passed on in OpenAI's envelope, since they say what to
change. Everything else stays here, and so does whatever in them says where the call went and on
whose account: addresses, paths of files, ids of organisations and keys, the name that the
upstream has for the model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 2000
"""Characters of a sentence."""
# Every part that may begin anywhere is bounded: callers can have upstreams repeat what they sent,
# and a search that tries each length at each place would hold up everybody.
_PRIVATE = re.compile(
    r"""
    [a-z][a-z0-9+.-]{0,20}://[^\s"'<>,;)]+                       # URLs
    | (?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.]\d)  # IPv4
    | \[[0-9a-f]*:[0-9a-f:.]+\](?::\d+)?                    # IPv6 as in URLs
    | (?<!\w)(?:[a-z0-9-]{1,63}\.){1,9}[a-z][a-z0-9-]{0,62}:\d{2,5}\b  # host and port
    | (?<!\w)localhost(?::\d+)?\b
    | (?<![\w/])/(?:app|data|etc|home|lib|mnt|models?|opt|root|srv|tmp|usr|var|workspace)
      (?:/[\w.@+-]+)+/?                                     # files
    | (?<!\w)[\w./-]{1,120}\.py\b
    | (?<![\w-])(?:org|proj|acct|user|req|sk|pk|rk|key|llmgw)[-_][\w*.-]{6,}
    | [\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+                         # addresses of people
    """,
    re.IGNORECASE | re.VERBOSE,
)
HIDDEN = "[hidden]"
"""Stands for what is not told."""
_TRACEBACK = "Traceback (most recent call last)"
_SILENT = "The model's backend refused the request."


def refusal_body(
    body: bytes, request_id: str, words: Mapping[str, str], code: str = "upstream_refused"
) -> bytes:
    """OpenAI's envelope with what `body` says, a JSON object of whatever shape. `words` are
    what must not be told, with what is said instead; `code` is for an upstream that has none."""
    found = error_object(body)
    own = found.get("code")
    param = found.get("param")
    kind = found.get("type")
    error = {
        "message": _told(sentence(found), words) or _SILENT,
        "type": _told(kind, words) if isinstance(kind, str) else "invalid_request_error",
        "param": _told(param, words) if isinstance(param, str) else None,
        "code": _told(own, words) if isinstance(own, str) else code,
        "request_id": request_id,
    }
    return msgspec.json.encode({"error": error})


def error_object(body: bytes) -> dict[str, Any]:
    """The part that speaks: `error` in OpenAI's form, the document itself in that of others."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {}
    error = document.get("error")
    if isinstance(error, dict):
        return error
    return {"message": error} if isinstance(error, str) else document


def sentence(found: dict[str, Any]) -> str:
    """`message`, or `detail` as web frameworks say it: a text or a list of complaints."""
    for name in ("message", "detail"):
        value = found.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return "; ".join(_complaint(one) for one in value if isinstance(one, dict))
    return ""


def _complaint(one: dict[str, Any]) -> str:
    where = one.get("loc")
    parts = [str(part) for part in where] if isinstance(where, list) else []
    return ": ".join(part for part in (".".join(parts), str(one.get("msg", ""))) if part)


def _told(text: str, words: Mapping[str, str]) -> str:
    """What may be told of `text`."""
    if _TRACEBACK in text:
        return _SILENT
    for word, instead in words.items():
        if word:
            text = text.replace(word, instead)
    # Only now: a word that is cut in two would be told up to there.
    return _PRIVATE.sub(HIDDEN, text[:_LONGEST])
