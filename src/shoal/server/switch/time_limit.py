"""The time that a call gives itself: waiting for its model counts, and the model's own server gets what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shoal.errors import DeadlineExceeded

_LEAST_S = 0.001
"""What a server is given at least, which refuses a limit of 0."""
_MOST_S = 1e9
"""More is no limit."""
_RETRY_AFTER_S = 5.0
"""A judgment: by then a model that is being loaded may be there."""


class TimeLimit:
    """The time limit of one call, which has begun now. Belongs to the running event loop."""

    def __init__(self, given: Any) -> None:
        """`given`: the field `timeout` of a body in JSON, in seconds. What is no such number, the model's server
        refuses."""
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        self._limit_s: float | None = given if is_number and 0 < given < _MOST_S else None
        self._begun_s = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None, None]:
        """A block that ends in time. Raises DeadlineExceeded."""
        limit_s = self._limit_s
        try:
            async with asyncio.timeout_at(None if limit_s is None else self._begun_s + limit_s):
                yield
        except TimeoutError:
            raise DeadlineExceeded(f"the model was not loaded within {limit_s:g} s", _RETRY_AFTER_S) from None

    def left_in(self, body: bytes) -> bytes:
        """The body with the time that is left in its field `timeout`; without a limit, the body itself."""
        if self._limit_s is None:
            return body
        left_s = self._limit_s - (asyncio.get_running_loop().time() - self._begun_s)
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return msgspec.json.encode(fields | {"timeout": max(_LEAST_S, left_s)})
