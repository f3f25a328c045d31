"""Errors in Anthropic's form. Source: Anthropic API reference, "Errors"."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shoal.server.http.retry_after import retry_after
from shoal.server.openai.errors import ApiError, from_exception

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_THREAD = "thread"
"""The field that asks the server to keep the conversation. Anthropic's tool runners send it, and after an error with
the details below they send the whole conversation every time instead."""


def error_body(error: ApiError) -> bytes:
    """The JSON object of an error, as an answer or as a stream's last event."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    told: dict[str, object] = {"type": kind, "message": str(error)}
    if error.param == _THREAD:
        told["details"] = {"error_code": "thread_unsupported_request", "unsupported": [_THREAD]}
    return msgspec.json.encode({"type": "error", "error": told})


def failure_event(body: bytes) -> bytes:
    """The event with which a stream ends after an error. `body`: the error as an answer of its own."""
    return b"event: error\ndata: " + body + b"\n\n"


async def answer_message_exception(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for the paths of this dialect."""
    answer = from_exception(error)
    headers = {} if answer.retry_after_s is None else {"retry-after": retry_after(answer.retry_after_s)}
    return Response(error_body(answer), answer.status, headers, media_type="application/json")
