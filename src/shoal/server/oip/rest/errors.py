"""Errors in the protocol's form: `{"error": "..."}`. The only place of this dialect with HTTP status codes."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shoal.errors import (
    CapacityError,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    ModelLoadError,
    QueueFull,
    ShoalError,
    ShuttingDown,
    WorkerLost,
)
from shoal.inference.repository import ModelNotReady, UnknownModel
from shoal.server.bodies.bodies import BodyTooLarge
from shoal.server.http.retry_after import retry_after
from shoal.server.oip.repository_calls import LoadNotAllowed


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The HTTP answer that reports an error."""
    return Response(msgspec.json.encode({"error": message}), status, headers, media_type="application/json")


def wrong_key() -> Response:
    """The answer to a request without the server's key."""
    headers = {"www-authenticate": "Bearer"}
    return error_response(401, "missing or wrong API key: send `Authorization: Bearer KEY`", headers)


def wrong_host(message: str) -> Response:
    """The answer to a request that a web page of another site may have sent."""
    return error_response(403, message)


async def answer_exception(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for every kind of error."""
    return from_exception(error)


def from_exception(error: Exception) -> Response:
    """The answer to an exception while a call was served."""
    match error:
        case HTTPException():
            return _from_http(error)
        case QueueFull() | DeadlineExceeded():
            return error_response(503, str(error), {"retry-after": retry_after(error.retry_after_s)})
        case ShuttingDown():
            return error_response(503, str(error), {"retry-after": retry_after(None)})
        case _:
            return error_response(_status_of(error), _message_of(error))


HANDLED: tuple[type[Exception], ...] = (ShoalError, BodyTooLarge, ClientDisconnect, HTTPException, Exception)
"""All listed by name, because Starlette logs a traceback for errors that it knows only as Exception."""


def _status_of(error: Exception) -> int:
    match error:
        case LoadNotAllowed():
            return 403
        case UnknownModel():
            return 404
        case ModelNotReady() | WorkerLost():
            return 503
        case InvalidRequest() | ModelLoadError() | ConfigError() | CapacityError() | ClientDisconnect():
            return 400
        case BodyTooLarge():
            return 413
        case _:
            return 500


def _message_of(error: Exception) -> str:
    match error:
        case ShoalError() | BodyTooLarge():
            return str(error)
        case ClientDisconnect():
            return "the client closed the connection"
        case _:
            return "internal error; see the server's log"


def _from_http(error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return error_response(404, "Not Found: see /v2 and /v2/models/NAME", headers)
        case 405:
            return error_response(405, "Method Not Allowed", headers)
        case status:
            return error_response(status, str(error.detail), headers)
