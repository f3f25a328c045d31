"""Names of calls' spans: the route, so that there are few different names whatever clients request.

Source: OpenTelemetry, semantic conventions for HTTP spans, "Name".
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.routing import Match, Route
from starlette.types import Scope

SpanDetails = Callable[[Scope], tuple[str, dict[str, str]]]
_ANYTHING = "/{path:path}"
"""The catch-all route of an app that forwards calls; it is no useful name."""


def details_by_route(app: Starlette) -> SpanDetails:
    """A function from a call's ASGI scope to its span's name and attributes."""

    def details(scope: Scope) -> tuple[str, dict[str, str]]:
        routes = (route for route in app.routes if isinstance(route, Route) and route.path != _ANYTHING)
        path = next((route.path for route in routes if route.matches(scope)[0] is not Match.NONE), None)
        method = scope["method"]
        return (method, {}) if path is None else (f"{method} {path}", {"http.route": path})

    return details
