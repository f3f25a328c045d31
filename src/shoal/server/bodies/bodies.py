"""Reads requests' bodies within bounds: for each body before it is read into memory, and for all bodies together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from shoal.errors import QueueFull
from shoal.server.bodies.compression import MAX_RATIO, unpack
from shoal.server.bodies.json_bounds import JsonBounds, check_json

MAX_BODY_BYTES = 8 << 20
"""Larger JSON bodies are refused. This is twice the longest context in use, 1 M tokens with about 4 bytes each."""
MIN_TOTAL_BYTES = 256 << 20
"""Least memory for all bodies together. A judgment: a quarter of what a small machine has for one model."""
_RETRY_AFTER_S = 1.0
_QUICK_BYTES = 1 << 16
"""Compressed bodies up to this size are unpacked in the event loop, if they cannot become large either."""
_UNCOUNTED_BYTES = 1 << 14

T = TypeVar("T")


class BodyTooLarge(Exception):
    """The body is larger than the server takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes, the most that this server takes")


class RequestBodies:
    """All bodies that one server reads. Belongs to the event loop, except for one thread in which large bodies are
    processed, so that the loop competes with at most one other thread for Python's lock."""

    def __init__(self, limit_bytes: int = MAX_BODY_BYTES) -> None:
        """`limit_bytes`: for one body, before and after it is unpacked; all together may have at least twice as
        much."""
        self.limit_bytes = limit_bytes
        self._total_bytes = max(MIN_TOTAL_BYTES, 2 * limit_bytes)
        self._taken_bytes = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shoal-bodies")

    @asynccontextmanager
    async def read(
        self, scope: Scope, receive: Receive, limit_bytes: int | None = None
    ) -> AsyncGenerator[bytes | bytearray, None]:
        """The whole body, unpacked; it counts as in memory until the end of the block.

        Args:
            scope: of the request.
            receive: of the connection.
            limit_bytes: if less is allowed than usual.

        Raises:
            BodyTooLarge: by the announced length, or as soon as too much has arrived or was unpacked.
            InvalidRequest: its encoding is unknown or wrong.
            QueueFull: too many bodies are in memory.
            ClientDisconnect: the client closed the connection first.
        """
        share = _Share(self, min(self.limit_bytes, limit_bytes or self.limit_bytes))
        try:
            pieces = await _receive(receive, _header(scope, b"content-length"), share)
            body = await self._joined(pieces)
            encoding = _header(scope, b"content-encoding").lower()
            yield body if encoding in ("", "identity") else await self._unpack(body, encoding, share)
        finally:
            share.give_back()

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Do work in the thread that would block the event loop for too long. Returns its result."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def check_json(self, body: bytes | bytearray | memoryview, bounds: JsonBounds) -> None:
        """See `json_bounds.check_json`. Small bodies are not checked: parsing them takes a few milliseconds, whatever
        they contain."""
        if len(body) > _UNCOUNTED_BYTES:
            await self.off_loop(lambda: check_json(body, bounds))

    def close(self) -> None:
        """End the thread after its present work."""
        self._worker.shutdown(wait=False)

    def take(self, num_bytes: int) -> None:
        """Count further bytes as in memory. Raises QueueFull."""
        if self._taken_bytes + num_bytes > self._total_bytes:
            raise QueueFull("the bodies of other requests take all the memory that there is for bodies", _RETRY_AFTER_S)
        self._taken_bytes += num_bytes

    def give(self, num_bytes: int) -> None:
        """Stop counting bytes as in memory."""
        self._taken_bytes -= num_bytes

    async def _joined(self, pieces: list[bytes]) -> bytes:
        """Join the pieces of a body, large ones in the thread: a growing buffer would be copied repeatedly by the loop,
        and `join` releases Python's lock."""
        if len(pieces) == 1:
            return pieces[0]
        if sum(map(len, pieces)) <= _QUICK_BYTES:
            return b"".join(pieces)
        joined = await self.off_loop(lambda: b"".join(pieces))
        pieces.clear()
        return joined

    async def _unpack(self, body: bytes | bytearray, encoding: str, share: _Share) -> bytearray:
        most_bytes = min(share.limit_bytes, MAX_RATIO * len(body))
        share.take(most_bytes)
        if most_bytes <= _QUICK_BYTES:
            unpacked = unpack(body, encoding, share.limit_bytes)
        else:
            unpacked = await self.off_loop(lambda: unpack(body, encoding, share.limit_bytes))
        if unpacked is None:
            raise BodyTooLarge(share.limit_bytes)
        share.give(most_bytes - len(unpacked) + len(body))
        return unpacked


class _Share:
    """Memory for bodies that one request uses."""

    def __init__(self, bodies: RequestBodies, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._bodies = bodies
        self._num_bytes = 0

    def take(self, num_bytes: int) -> None:
        self._bodies.take(num_bytes)
        self._num_bytes += num_bytes

    def give(self, num_bytes: int) -> None:
        self._bodies.give(num_bytes)
        self._num_bytes -= num_bytes

    def give_back(self) -> None:
        self.give(self._num_bytes)


async def _receive(receive: Receive, announced: str, share: _Share) -> list[bytes]:
    """The body in pieces of a reasonable size, however it arrives."""
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > share.limit_bytes):
        raise BodyTooLarge(share.limit_bytes)
    pieces: list[bytes] = []
    latest = bytearray()
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece: bytes = message.get("body", b"")
        num_bytes += len(piece)
        if num_bytes > share.limit_bytes:
            raise BodyTooLarge(share.limit_bytes)
        share.take(len(piece))
        is_last = not message.get("more_body", False)
        if is_last and not num_bytes - len(piece):
            return [piece]
        latest += piece
        if is_last or len(latest) >= _QUICK_BYTES:
            pieces.append(bytes(latest))
            latest.clear()
        if is_last:
            return pieces


def _header(scope: Scope, name: bytes) -> str:
    """A header's value; empty if it is missing."""
    return next((value.decode("latin-1").strip() for key, value in scope["headers"] if key == name), "")
