"""Optional API key: `Authorization: Bearer KEY` on the API's paths; probes and metrics stay open."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class ApiKeyCheck:
    """Compares in constant time."""

    def __init__(self, api_key: str) -> None:
        self._expected = f"Bearer {api_key}".encode()

    def accepts(self, authorization: str) -> bool:
        """Whether an `authorization` header or metadata entry has the key; empty: there was none."""
        return hmac.compare_digest(authorization.encode("latin-1", "replace"), self._expected)


class ApiKeyMiddleware:
    """Answers a request without the key before anything else sees it."""

    def __init__(
        self,
        app: ASGIApp,
        api_key: str,
        prefix: str | tuple[str, ...],
        refuse: Callable[[], Response],
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            app: what is guarded.
            api_key: the key.
            prefix: paths that begin so, or in one of these ways, need it,
            open_paths: but for these.
            refuse: the answer without it, in the form of the API.
        """
        self._app = app
        self._check = ApiKeyCheck(api_key)
        self._prefix = prefix
        self._refuse = refuse
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        is_refused = scope["type"] == "http" and not self._may_pass(scope)
        await (self._refuse() if is_refused else self._app)(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if path in self._open_paths or not path.startswith(self._prefix):
            return True
        return self._check.accepts(Headers(scope=scope).get("authorization", ""))
