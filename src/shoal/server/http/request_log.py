"""Gives every request an id, returns it to the client, and logs a line when the request has been answered."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import MutableMapping, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_ANTHROPIC_HEADER = b"request-id"
"""The name under which Anthropic's clients look for the id in answers."""
MAX_ID_CHARS = 128
"""A judgment: four UUIDs."""
_ID = re.compile(rf"[\x21-\x7e]{{1,{MAX_ID_CHARS}}}")
_ID_KEY = "shoal.request_id"
_FIELDS_KEY = "shoal.log_fields"
_MAX_PATH_CHARS = 200

access_logger = logging.getLogger("shoal.access")


def accepted_id(given: str | None) -> str:
    """The id that a client gave its request if it is visible ASCII of bounded length, otherwise a new one."""
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex


def request_id_of(scope: MutableMapping[str, Any]) -> str:
    """The request's id; empty without a `RequestLog` around the app."""
    return scope.get(_ID_KEY, "")


def add_fields(scope: MutableMapping[str, Any], **fields: object) -> None:
    """Add fields to the request's line in the log, such as its number of tokens."""
    scope.setdefault(_FIELDS_KEY, {}).update(fields)


class RequestLog:
    """ASGI middleware around everything else, so that refusals and failures also have an id and a line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = scope[_ID_KEY] = accepted_id(_header(scope["headers"]))
        names = [(header, request_id.encode()) for header in (HEADER, _ANTHROPIC_HEADER)]
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *names]
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        finally:
            if access_logger.isEnabledFor(logging.INFO):
                log_access(
                    scope["method"],
                    scope["path"],
                    status,
                    time.perf_counter() - started_s,
                    request_id,
                    scope.get(_FIELDS_KEY, {}),
                )


def log_access(
    method: str, path: str, status: int | str, elapsed_s: float, request_id: str, fields: MutableMapping[str, Any]
) -> None:
    """Log one line for a request that has ended.

    Args:
        method: of HTTP, or `gRPC`.
        path: without the query, which may contain secrets.
        status: 0: the client disconnected before there was one.
        elapsed_s: from the headers to the end of the answer.
        request_id: of the request.
        fields: further fields.
    """
    shown = path[:_MAX_PATH_CHARS].encode("ascii", "backslashreplace").decode()
    shown = shown if shown.isprintable() else repr(shown)
    told = {"method": method, "path": shown, "status": status, "ms": round(elapsed_s * 1e3, 1)}
    more = "".join(f" {name}={value}" for name, value in fields.items())
    access_logger.info(
        "%s %s %s %.1f ms id=%s%s",
        *(method, shown, status or "-", elapsed_s * 1e3, request_id, more),
        extra={**told, "request_id": request_id, **fields},
    )


def _header(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == HEADER:
            return value.decode("latin-1")
    return None
