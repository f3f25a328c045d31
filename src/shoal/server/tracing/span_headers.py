"""Writes a call's span into the call's headers: it becomes the parent of spans of the server that receives it next."""

from __future__ import annotations

from opentelemetry import propagate
from starlette.types import ASGIApp, Receive, Scope, Send


class SpanInHeaders:
    """ASGI middleware; it runs inside the one that makes spans. Source: W3C, Trace Context, section 3.2."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call. Mutates the call's headers: `traceparent` becomes that of the call's own span."""
        if scope["type"] == "http":
            given: dict[str, str] = {}
            propagate.inject(given)
            own = {name.lower().encode(): value.encode() for name, value in given.items()}
            scope["headers"] = [header for header in scope["headers"] if header[0] not in own] + [*own.items()]
        await self._app(scope, receive, send)
