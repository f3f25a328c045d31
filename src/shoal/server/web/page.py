"""The page at `/`: files of the package, and headers that keep foreign content out of it.

The page contains no state of the server and needs no key; its later calls do.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ASSETS = Path(__file__).parent / "assets"
_INDEX = "index.html"
_SERVED = frozenset({".html", ".js", ".css", ".svg", ".txt"})
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Source: W3C Content Security Policy Level 3; the others are those of OWASP's Secure Headers Project. Scripts and
styles come only from files of this server; the page itself has none inline."""


class WebPage:
    """Handlers of the page's files, which are read once: a hundred kilobytes."""

    def __init__(self, folder: Path = ASSETS) -> None:
        """`folder`: where `make web` puts the files."""
        files = (path for path in sorted(folder.iterdir()) if path.suffix in _SERVED)
        self._files = {path.name: _File(path) for path in files}

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            Route("/", self.index, methods=["GET"]),
            Route("/web/{name}", self.file, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        """GET /"""
        return self._files[_INDEX].answer(request)

    async def file(self, request: Request) -> Response:
        """GET /web/NAME"""
        file = self._files.get(request.path_params["name"])
        if file is None:
            return Response(status_code=404, headers=SECURITY_HEADERS)
        return file.answer(request)


class _File:
    """One file in memory; browsers always ask whether their copy is current."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        media_type = mimetypes.types_map.get(path.suffix, "application/octet-stream")
        self._headers = SECURITY_HEADERS | {
            "content-type": f"{media_type}; charset=utf-8",
            "cache-control": "no-cache",
            "etag": f'"{hashlib.sha256(self._content).hexdigest()[:32]}"',
        }

    def answer(self, request: Request) -> Response:
        """The content, or 304 if it has not changed. Source: RFC 9110, section 13.1.2 (If-None-Match)."""
        if request.headers.get("if-none-match") == self._headers["etag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers)
