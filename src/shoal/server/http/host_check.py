"""Keeps web pages in the user's browser away from a server that only this machine should reach.

A page of any site may send requests to 127.0.0.1, and with a name of its own that resolves there (DNS rebinding) read
the answers. Browsers say whom they mean to ask (`Host`) and who asks (`Origin`, `Sec-Fetch-Site`); other clients say
only the former, and name this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


def is_loopback(host: str) -> bool:
    """Whether a name or address, without a port, can only be this machine's own."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


class HostMiddleware:
    """Refuses requests that name another host than this machine, or that come from a page of another."""

    def __init__(self, app: ASGIApp, allowed: Sequence[str], refuse: Callable[[str], Response]) -> None:
        """
        Args:
            app: what is guarded.
            allowed: names beside this machine's own.
            refuse: the answer with this message, in the form of the API.
        """
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._app if problem is None else self._refuse(problem))(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not self._is_allowed(host):
            return f"the host {_short(host)} is not this server: allow it with --allowed-host"
        if origin is None:
            is_foreign = headers.get("sec-fetch-site") == "cross-site"
            return "pages of other sites may not use this server: allow one with --allowed-host" if is_foreign else None
        scheme, _, origin_host = origin.partition("://")
        if scheme in ("http", "https") and self._is_allowed(origin_host):
            return None
        return f"pages of {_short(origin)} may not use this server: allow its host with --allowed-host"

    def _is_allowed(self, host_and_port: str) -> bool:
        host, colon, port = host_and_port.rpartition(":")
        name = host if colon and port.isdecimal() else host_and_port
        is_bracketed = name.startswith("[") and name.endswith("]")
        if ":" in name and not is_bracketed:
            return False
        return is_loopback(name) or name.lower().removesuffix(".") in self._allowed


def _short(text: str) -> str:
    """At most a line of what a client has sent."""
    return repr(text[:100])
