"""Reads a request's body, bounded before it is taken into memory."""

from __future__ import annotations

from starlette.requests import Request

MAX_BODY_BYTES = 8 << 20
"""Larger bodies are refused. The longest contexts in use, 1 M tokens at about 4 bytes, fit twice."""


class BodyTooLarge(Exception):
    """The body is larger than the server takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes, the most that this server takes")


async def read_body(request: Request, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The whole body. Raises BodyTooLarge by the announced length, or else as soon as too much has come."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    body = bytearray()
    async for piece in request.stream():
        if len(body) + len(piece) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        body += piece
    return bytes(body)
