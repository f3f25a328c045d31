"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}. The only place with HTTP status codes."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shoal.errors import (
    CapacityError,
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    RequestError,
    ShoalError,
    ShuttingDown,
    WorkerLost,
)
from shoal.generation.call_requests import ContextLengthExceeded
from shoal.server.bodies.bodies import BodyTooLarge
from shoal.server.http.retry_after import retry_after


class ApiError(Exception):
    """An answer that reports an error. `error_type`, `param` and `code` are OpenAI's fields of these names.

    `retry_after_s`: when the same request is likely to succeed; 0: as soon as is known; None: waiting does not help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON object of the answer."""
        fields = {"message": str(self), "type": self.error_type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": fields})

    def response(self) -> Response:
        """The whole HTTP answer."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after_s is not None:
            headers["retry-after"] = retry_after(self.retry_after_s)
        return Response(self.body(), self.status, headers, media_type="application/json")


def from_exception(error: Exception) -> ApiError:
    """The answer to an exception while a call was served."""
    match error:
        case ApiError():
            return error
        case ValidationError():
            return _from_validation(error)
        case ContextLengthExceeded():
            return ApiError(400, str(error), param=error.param, code="context_length_exceeded")
        case InvalidRequest():
            return ApiError(400, str(error), param=error.param, code="invalid_value")
        case QueueFull():
            return _overloaded(error)
        case CapacityError():
            return ApiError(400, str(error), code="insufficient_capacity")
        case BodyTooLarge():
            return ApiError(413, str(error), code="request_too_large")
        case WorkerLost():
            return ApiError(
                503, f"the model's workers are gone: {error}", error_type="server_error", code="worker_lost"
            )
        case DeadlineExceeded():
            return _too_late(error)
        case RequestError():
            return ApiError(500, str(error), error_type="server_error", code="request_failed")
        case ShuttingDown():
            return ApiError(503, str(error), error_type="server_error", code="shutting_down", retry_after_s=0.0)
        case ClientDisconnect():
            return ApiError(400, "the client closed the connection")
        case HTTPException():
            return _from_http(error)
        case ShoalError():
            return ApiError(500, str(error), error_type="server_error", code="internal_error")
        case _:
            return ApiError(
                500, "internal error; see the server's log", error_type="server_error", code="internal_error"
            )


async def answer_exception(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for every kind of error."""
    response = from_exception(error).response()
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


HANDLED: tuple[type[Exception], ...] = (
    ApiError,
    ValidationError,
    ShoalError,
    BodyTooLarge,
    ClientDisconnect,
    HTTPException,
    Exception,
)
"""All listed by name, because Starlette logs a traceback for errors that it knows only as Exception."""


_MAX_NAME_CHARS = 100
"""Characters of a model's name in a message."""


def unknown_model(name: str) -> ApiError:
    """The answer to a model name that is not served here."""
    message = f"The model `{name[:_MAX_NAME_CHARS]}` does not exist: GET /v1/models lists what is served here"
    return ApiError(404, message, param="model", code="model_not_found")


def wrong_key() -> ApiError:
    """The answer to a request without the server's key."""
    return ApiError(401, "Missing or wrong API key: send `Authorization: Bearer KEY`", code="invalid_api_key")


def wrong_host(message: str) -> ApiError:
    """The answer to a request that a web page of another site may have sent."""
    return ApiError(403, message, code="host_not_allowed")


def _overloaded(error: QueueFull) -> ApiError:
    return ApiError(
        429,
        f"the server is overloaded: {error}",
        error_type="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after_s=error.retry_after_s,
    )


def _too_late(error: DeadlineExceeded) -> ApiError:
    """503 if another time or server would help, 504 if the answer itself takes longer than the client waits."""
    status = 504 if error.retry_after_s is None else 503
    return ApiError(
        status, str(error), error_type="server_error", code="deadline_exceeded", retry_after_s=error.retry_after_s
    )


def _from_http(error: HTTPException) -> ApiError:
    match error.status_code:
        case 404:
            return ApiError(
                404, "Unknown path: see /v1/models, /v1/chat/completions, /v1/completions", code="not_found"
            )
        case 405:
            return ApiError(405, "This path does not accept this method", code="method_not_allowed")
        case status:
            return ApiError(status, str(error.detail))


def _from_validation(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {message.removeprefix('Invalid JSON: ')}", code="invalid_json")
    param = _dotted(first["loc"]) or None
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param}: {message}" if param else message, param=param, code=code)


def _dotted(location: tuple[Any, ...]) -> str:
    """`messages[0].content` for ("messages", 0, "content")."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
