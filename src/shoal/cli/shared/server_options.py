"""Where a server listens and whom it lets in, whatever it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from shoal.cli.shared.log import announce
from shoal.errors import ConfigError
from shoal.server.http.auth import read_api_key
from shoal.server.http.host_check import check_origins, is_loopback
from shoal.server.http.tls import TlsFiles, check_tls
from shoal.server.tracing.tracing import Tracing
from shoal.server.web.routes import PageOptions
from shoal.server.web.seams import PlanBook


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where a server listens and whom it lets in."""

    host: str
    port: int
    """0 picks a free one"""
    api_key: str | None
    """what clients must send; None: nothing"""
    tls: TlsFiles | None
    """of HTTPS, and of gRPC; None: nothing is encrypted"""
    allowed_hosts: Sequence[str] | None
    """other names under which it may be asked; None: any"""
    cors_origins: Sequence[str]
    """web pages of other origins that may ask it"""
    drain_timeout_s: float
    """how long open requests may take after a signal, >= 0"""
    tracing: Tracing | None = None
    """where spans go; None: nobody asks for them"""
    has_page: bool = True
    """whether there is a page at `/`"""
    is_demo: bool = False
    """whether the page can take workers away"""
    allows_drill: bool = False
    """whether `shoal drill` can"""

    def page(self, plans: PlanBook) -> PageOptions | None:
        """Of the page; None: there is none. `plans`: how the models were planned."""
        return PageOptions(plans=plans, is_demo=self.is_demo, allows_drill=self.allows_drill) if self.has_page else None


def server_options(context: typer.Context, tracing: Tracing | None = None) -> ServerOptions:
    """What the command line says; warns where anyone may ask the server.

    Raises:
        ConfigError: the certificate, its key, the file of the API key or an origin cannot be used, or options exclude
            each other.
    """
    said = context.params
    host, allowed_host = said["host"], said["allowed_host"]
    tls = check_tls(_path(said["tls_cert"]), _path(said["tls_key"]))
    api_key = read_api_key(said["api_key"], _path(said["api_key_file"]))
    if said["demo"] and said["no_web"]:
        raise ConfigError("--demo adds buttons to the page, which --no-web turns off: give only one of them")
    if said["allow_drill"] and said["no_web"]:
        raise ConfigError("--allow-drill needs calls that --no-web turns off: give only one of them")
    if api_key is None and not is_loopback(host):
        announce(f"warning: anyone who reaches {host} can use this server; set --api-key")
    return ServerOptions(
        host=host,
        port=said["port"],
        api_key=api_key,
        tls=tls,
        allowed_hosts=tuple(allowed_host or ()) if allowed_host or is_loopback(host) else None,
        cors_origins=check_origins(said["cors_origin"] or ()),
        drain_timeout_s=said["drain_timeout"],
        tracing=tracing,
        has_page=not said["no_web"],
        is_demo=said["demo"],
        allows_drill=said["allow_drill"],
    )


def _path(value: str | Path | None) -> Path | None:
    """What an option holds, which Typer makes a path of for the command's own parameters alone."""
    return None if value is None else Path(value)
