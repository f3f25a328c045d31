"""Reads a request's body, bounded before it is taken into memory."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

MAX_BODY_BYTES = 8 << 20
"""Larger bodies are refused. The longest contexts in use, 1 M tokens at about 4 bytes, fit twice."""


class BodyTooLarge(Exception):
    """The body is larger than the server takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes, the most that this server takes")


async def read_body(request: Request, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """The whole body. Raises BodyTooLarge by the announced length, or else as soon as too much has come."""
    announced = request.headers.get("content-length", "")
    return bytes(await receive_body(request.receive, announced, limit_bytes))


async def receive_body(receive: Receive, announced: str, limit_bytes: int) -> bytes | bytearray:
    """The whole body, without a copy where it came in one piece.

    Args:
        receive: the connection's.
        announced: the Content-Length header; empty where there is none.
        limit_bytes: the most that is read.

    Raises:
        BodyTooLarge: by the announced length, or else as soon as too much has come.
        ClientDisconnect: the client went away first.
    """
    if announced.isdigit() and int(announced) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece: bytes = message.get("body", b"")
        if len(body) + len(piece) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        is_last = not message.get("more_body", False)
        if is_last and not body:
            return piece
        body += piece
        if is_last:
            return body
