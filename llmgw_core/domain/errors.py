"""The one error tree: machine fields first, one public sentence, no internals.

Everything that a caller may be told is a `GatewayError`; `wire.envelope` turns it
into OpenAI's error envelope in one place. Messages never name an upstream address,
a key or an internal name. Codes and types follow OpenAI's error reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


class GatewayError(Exception):
    """A refusal or failure that the caller is told about.

    `status` is the HTTP status; `code` and `type` are OpenAI's machine fields;
    `param` names the request field at fault; `retry_after` is in seconds;
    `should_retry` becomes `x-should-retry` when it is not None: false where the same request
    must fail again, true where waiting helps, None where nobody can know. `headers` are further
    ones of the reply, such as `allow`. `rule` is what decided, for operators and never told: the
    id of a meter, a rule of the grant. `request_id` is the id of the call where an embedding
    application sees the error, else "".
    """

    __slots__ = (
        "code",
        "headers",
        "message",
        "param",
        "request_id",
        "retry_after",
        "rule",
        "should_retry",
        "status",
        "type",
    )

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.type = type
        self.param = param
        self.retry_after = retry_after
        self.should_retry = should_retry
        self.headers = headers
        self.rule = ""
        self.request_id = ""

    def decided_by(self, rule: str) -> Self:
        """The same with what decided."""
        self.rule = rule
        return self

    def let_go(self) -> None:
        """Forget where it was raised. An error that is a constant of a plugin, raised again and
        again, would hold every call that it has ended."""
        self.__traceback__ = self.__context__ = self.__cause__ = None


def invalid_request(
    message: str, *, param: str | None = None, code: str = "invalid_request"
) -> GatewayError:
    """400: the caller's request is at fault; `param` names the field."""
    return GatewayError(400, code, message, param=param, should_retry=False)


def not_http() -> GatewayError:
    """400: what came is no HTTP request."""
    return invalid_request("This is not a valid HTTP request.", code="invalid_http_request")


def head_too_large() -> GatewayError:
    """431: the head of the request is larger than `server.head_bytes`."""
    return GatewayError(
        431,
        "request_head_too_large",
        "The head of the request is larger than allowed.",
        should_retry=False,
    )


def invalid_api_key(message: str = "Incorrect API key provided.") -> GatewayError:
    """401: no, unknown, expired or disabled credentials. One text for all of them."""
    return GatewayError(
        401, "invalid_api_key", message, type="authentication_error", should_retry=False
    )


def unknown_caller() -> GatewayError:
    """401: an application names a caller who does not exist or is disabled."""
    return GatewayError(
        401,
        "unknown_caller",
        "There is no such caller, or it is disabled.",
        type="authentication_error",
        should_retry=False,
    )


def permission_denied(message: str) -> GatewayError:
    """403: known caller, but policy says no."""
    return GatewayError(
        403, "permission_denied", message, type="permission_error", should_retry=False
    )


def cost_center_not_allowed(code: str, header: str) -> GatewayError:
    """403: the caller may not choose this cost centre now, or there is none of that code."""
    return GatewayError(
        403,
        "cost_center_not_allowed",
        f"This key may not choose the cost centre '{code[:50]}' now.",
        type="permission_error",
        param=header,
        should_retry=False,
    )


def model_not_found(model: str) -> GatewayError:
    """404 for a model that does not exist *or* is not granted: the two look the same."""
    return GatewayError(
        404,
        "model_not_found",
        f"The model '{model[:200]}' does not exist or you do not have access to it.",
        param="model",
        should_retry=False,
    )


def model_retired(
    model: str, successor: str = "", *, headers: Sequence[tuple[bytes, bytes]] = ()
) -> GatewayError:
    """404 for a model that is granted and has been taken out of service; names its successor."""
    instead = f" Use '{successor}' instead." if successor else ""
    return GatewayError(
        404,
        "model_retired",
        f"The model '{model[:200]}' has been retired.{instead}",
        param="model",
        should_retry=False,
        headers=headers,
    )


def model_switched_off(model: str, expires_in: float | None) -> GatewayError:
    """503: an operator has switched the model off; the switch expires in that many seconds, if
    ever. Only a near end is worth waiting for."""
    return GatewayError(
        503,
        "model_switched_off",
        f"The model '{model[:200]}' is switched off at the moment.",
        type="server_error",
        param="model",
        retry_after=expires_in if expires_in is not None and expires_in <= 3600 else None,
        should_retry=expires_in is not None and expires_in <= 60,
    )


def call_ended() -> GatewayError:
    """503: an operator has switched off what the call ran on, and has ended it."""
    return GatewayError(
        503,
        "switched_off",
        "The call was ended by an operator of the gateway.",
        type="server_error",
        should_retry=True,
    )


def team_switched_off() -> GatewayError:
    """403: an operator has switched the caller's team off."""
    return GatewayError(
        403,
        "team_switched_off",
        "Calls of your team are switched off at the moment.",
        type="permission_error",
        should_retry=False,
    )


def not_found() -> GatewayError:
    """404: there is nothing at this path."""
    return GatewayError(404, "not_found", "There is nothing at this path.", should_retry=False)


def wrong_method(allowed: str) -> GatewayError:
    """405: the path exists and is for other methods; `allow` lists them."""
    return GatewayError(
        405,
        "method_not_allowed",
        f"This path is for {allowed} requests.",
        should_retry=False,
        headers=((b"allow", allowed.encode()),),
    )


def unsupported_media_type(
    message: str, *, headers: Sequence[tuple[bytes, bytes]] = ()
) -> GatewayError:
    """415: the body is not JSON, or compressed."""
    return GatewayError(415, "unsupported_media_type", message, should_retry=False, headers=headers)


def rate_limited(
    message: str, retry_after: float, *, code: str = "rate_limit_exceeded"
) -> GatewayError:
    """429: a meter is full; `retry_after` seconds from now the same call would fit."""
    return GatewayError(429, code, message, type="rate_limit_error", retry_after=retry_after)


def budget_exceeded(
    message: str,
    retry_after: float | None = None,
    *,
    should_retry: bool = False,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> GatewayError:
    """429: a budget has no room; `retry_after` seconds from now it begins anew, if it does. Only
    what calls under way may give back is worth another try."""
    return GatewayError(
        429,
        "budget_exceeded",
        message,
        type="insufficient_quota",
        retry_after=retry_after,
        should_retry=should_retry,
        headers=headers,
    )


def run_limit_exceeded(message: str, retry_after: float | None = None) -> GatewayError:
    """429: calls of a key or a session have come to a bound of money, calls or duration."""
    return GatewayError(
        429,
        "run_limit_exceeded",
        message,
        type="rate_limit_error",
        retry_after=retry_after,
        should_retry=False,
    )


def velocity_exceeded(message: str, retry_after: float | None = None) -> GatewayError:
    """429: the key spends far more in ten minutes than is usual for it."""
    return GatewayError(
        429,
        "velocity_exceeded",
        message,
        type="rate_limit_error",
        retry_after=retry_after,
        should_retry=False,
    )


def loop_detected(message: str, retry_after: float | None = None) -> GatewayError:
    """429: the same request has come too often, one after the other."""
    return GatewayError(
        429,
        "loop_detected",
        message,
        type="rate_limit_error",
        retry_after=retry_after,
        should_retry=False,
    )


def overloaded(
    message: str,
    *,
    retry_after: float | None = None,
    code: str = "unavailable",
    should_retry: bool = True,
) -> GatewayError:
    """503: nothing wrong with the call; there is nobody to serve it now."""
    return GatewayError(
        503,
        code,
        message,
        type="server_error",
        retry_after=retry_after,
        should_retry=should_retry,
    )


def upstream_failed(
    message: str,
    *,
    code: str = "upstream_error",
    status: int = 502,
    should_retry: bool | None = None,
) -> GatewayError:
    """502 or 504: the model's backend failed and no other candidate was left."""
    return GatewayError(status, code, message, type="server_error", should_retry=should_retry)


def internal_error() -> GatewayError:
    """500: a bug of the gateway; the text says nothing about it on purpose."""
    return GatewayError(
        500,
        "internal_error",
        "The gateway could not process the request.",
        type="server_error",
        should_retry=False,
    )


class StoreUnavailable(Exception):
    """The database does not answer. Never shown to a caller as such."""


class ConfigError(Exception):
    """The configuration (or a plugin in it) is wrong; the text is a sentence with the remedy.

    `path` is the dotted path of the culprit inside the configuration, e.g.
    `models.smollm2.deployments[0].zone`; `at` is that of the place to look at, if it is another.
    `file`, `line` and `column` (from 1) say where that stands, as far as it is known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        at: str = "",
        file: str = "",
        line: int = 0,
        column: int = 0,
    ) -> None:
        where = f"{file}:{line}:{column}: " if file and line else f"{file}: " if file else ""
        super().__init__(f"{where}{path}: {message}" if path else f"{where}{message}")
        self.message = message
        self.path = path
        self.at = at
        self.file = file
        self.line = line
        self.column = column
