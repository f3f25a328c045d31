"""Keeps web pages in the user's browser away from a server that only this machine should use, apart from allowed pages.

A page of any site may send requests to 127.0.0.1 and, with a name of its own that resolves there (DNS rebinding), read
the answers. Browsers say which host they ask (`Host`) and which page asks (`Origin`, `Sec-Fetch-Site`); other clients
send only the former, and name this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Sequence

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.errors import ConfigError

ANY_ORIGIN = "*"


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Web pages given by scheme, host and port, as browsers write them. Raises ConfigError."""
    for origin in origins:
        scheme, separator, host = origin.partition("://")
        if origin != ANY_ORIGIN and not (separator and scheme and host and "/" not in host):
            raise ConfigError(f"--cors-origin must be a page's scheme, host and port, or {ANY_ORIGIN}, not {origin!r}")
    return tuple(origin.lower() for origin in origins)


def cors_guard(origins: Sequence[str]) -> list[Middleware]:
    """Middleware that tells browsers which pages of other origins may use the server; empty if there are none.

    It must come first, because browsers ask without a key whether they may send one.
    Source: WHATWG Fetch, section 3.2 (HTTP CORS protocol).
    """
    if not origins:
        return []
    methods, shown = ("GET", "POST", "DELETE"), ("x-request-id", "retry-after")
    return [
        Middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=shown
        )
    ]


def is_loopback(host: str) -> bool:
    """Whether a name or address, without a port, can only mean this machine."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_own_page(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a request cannot come from a page of another site, whatever address the server listens on.

    Without `HostMiddleware` any name may lead to the server, including a page's own (DNS rebinding). So the server's
    name must be an address, this machine's own name, or one of `allowed` (in lower case). Clients other than browsers
    send no `Origin`.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    is_known = name.lower().removesuffix(".") in allowed or is_loopback(name) or _is_address(name)
    is_same = origin is None or origin.partition("://")[2].lower() == host.lower()
    return is_known and is_same and headers.get("sec-fetch-site") not in ("cross-site", "same-site")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class HostMiddleware:
    """Refuses requests that name another host than this machine, or that come from a page of another host."""

    def __init__(
        self, app: ASGIApp, allowed: Sequence[str], refuse: Callable[[str], Response], origins: Sequence[str] = ()
    ) -> None:
        """
        Args:
            app: the guarded application.
            allowed: host names besides this machine's own.
            refuse: makes the answer with a message, in the form of the API.
            origins: pages that may send requests, see `check_origins`.
        """
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._refuse = refuse
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._app if problem is None else self._refuse(problem))(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not self._is_allowed(host):
            return f"the host {_short(host)} is not this server: allow it with --allowed-host"
        if origin is not None and not self._origins.isdisjoint((origin.lower(), ANY_ORIGIN)):
            return None
        if origin is None:
            is_foreign = headers.get("sec-fetch-site") == "cross-site"
            return "pages of other sites may not use this server: allow one with --allowed-host" if is_foreign else None
        scheme, _, origin_host = origin.partition("://")
        if scheme in ("http", "https") and self._is_allowed(origin_host):
            return None
        return f"pages of {_short(origin)} may not use this server: allow it with --cors-origin"

    def _is_allowed(self, host_and_port: str) -> bool:
        host, colon, port = host_and_port.rpartition(":")
        name = host if colon and port.isdecimal() else host_and_port
        is_bracketed = name.startswith("[") and name.endswith("]")
        if ":" in name and not is_bracketed:
            return False
        return is_loopback(name) or name.lower().removesuffix(".") in self._allowed


def _short(text: str) -> str:
    """At most one line of a client's text."""
    return repr(text[:100])
