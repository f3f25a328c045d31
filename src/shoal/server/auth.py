"""Optional API key: `Authorization: Bearer KEY` on /v1/*; probes and metrics stay open."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.server.openai.errors import ApiError


class ApiKeyMiddleware:
    """Answers 401 in OpenAI's form to a /v1 request without the key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith("/v1") and not self._is_authorized(scope):
            message = "Missing or wrong API key: send `Authorization: Bearer KEY`"
            await ApiError(401, message, code="invalid_api_key").response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        given = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(given.encode("latin-1"), self._expected)
