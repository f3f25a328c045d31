"""Errors in Ollama's form: {"error": "..."}."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shoal.server.http.retry_after import retry_after
from shoal.server.openai.errors import ApiError, from_exception


def error_body(error: ApiError) -> bytes:
    """The JSON object of an error, as an answer or as a stream's last line."""
    return msgspec.json.encode({"error": str(error)})


def failure_line(body: bytes) -> bytes:
    """The line with which a stream ends after an error. `body`: the error as an answer of its own."""
    return body.rstrip(b"\n") + b"\n"


async def answer_api_exception(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for the paths of this dialect."""
    answer = from_exception(error)
    headers = {} if answer.retry_after_s is None else {"retry-after": retry_after(answer.retry_after_s)}
    return Response(error_body(answer), answer.status, headers, media_type="application/json")
