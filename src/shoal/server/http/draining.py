"""A server that is about to end: it takes no new requests, but open ones may finish."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import ShuttingDown

DRAIN_TIMEOUT_S = 25.0
"""Default time that open requests have after a signal. Kubernetes kills the process 30 s after it."""


class Drain:
    """State of draining, shared by everything that takes requests."""

    def __init__(self) -> None:
        self.is_on = False
        """Whether new requests are refused."""
        self.num_open = 0
        """Requests that are not answered completely."""
        self.reason: str | None = None
        """Why the server ends without a signal; None: it does not."""

    def leave(self, reason: str) -> None:
        """End the server as a signal would, except for its exit status. May be called in any thread."""
        self.reason = reason
        self.is_on = True

    @contextmanager
    def request(self) -> Generator[None, None, None]:
        """Count a request as open in the block. Raises ShuttingDown."""
        if self.is_on:
            raise ShuttingDown
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1


class DrainMiddleware:
    """Counts an API's requests and refuses new ones while the server drains."""

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        prefix: str | tuple[str, ...],
        refuse: Callable[[ShuttingDown], Response],
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            app: the application.
            drain: of the server.
            prefix: beginning or beginnings of the API's paths.
            open_paths: paths that are exempt.
            refuse: makes the answer while the server drains, in the form of the API.
        """
        self._app = app
        self._drain = drain
        self._prefix = prefix
        self._refuse = refuse
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or not self._guards(scope["path"]):
            await self._app(scope, receive, send)
        elif self._drain.is_on:
            response = self._refuse(ShuttingDown())
            response.headers["connection"] = "close"
            await response(scope, receive, send)
        else:
            with self._drain.request():
                await self._app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return path.startswith(self._prefix) and path not in self._open_paths
