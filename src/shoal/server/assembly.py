"""The common parts of all applications over one data plane: probes, guards, errors, a lifespan."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.errors import ShuttingDown
from shoal.generation.data_plane import DataPlane
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.generation.generation_status import GenerationStatus, MachineState
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.auth import ApiKeyMiddleware
from shoal.server.http.draining import Drain, DrainMiddleware
from shoal.server.http.health.probes import STATUS_PATH, Probes
from shoal.server.http.host_check import HostMiddleware, cors_guard
from shoal.server.openai.errors import HANDLED, from_exception, wrong_host, wrong_key
from shoal.server.web.routes import PageApi, PageOptions, page_at_work, page_routes


@dataclass(frozen=True, slots=True, kw_only=True)
class AppOptions:
    """Options of an application: how it is guarded, and what its probes show."""

    api_key: str | None = None
    plan: Callable[[], Mapping[str, Any]] = dict
    """Tells `/status` how the model is split now."""
    machines: MachineState | None = None
    """The machines that the model runs on; None: this machine."""
    allowed_hosts: Sequence[str] | None = None
    """Host names that requests may use besides this machine's own; None: any."""
    cors_origins: Sequence[str] = ()
    """Web pages of other hosts that may use the server, see `check_origins`."""
    page: PageOptions | None = None
    """The page at `/`; None: there is none."""


def assemble(
    data_plane: DataPlane,
    metrics: ServerMetrics,
    bodies: RequestBodies,
    routes: Sequence[Route],
    options: AppOptions,
    *,
    counted: Sequence[str],
    guarded: Sequence[str] = (),
    answer_error: Callable[[Request, Exception], Awaitable[Response]],
) -> Starlette:
    """An HTTP application over a data plane, which it starts and closes in its own lifespan.

    Args:
        data_plane: of the model.
        metrics: counted by the data plane.
        bodies: reads the requests' bodies; closed by the application.
        routes: of the application, besides the probes.
        options: see `AppOptions`.
        counted: prefixes of paths whose requests are counted, and refused while the server drains. They need the key if
            there is one.
        guarded: prefixes of other paths that need the key.
        answer_error: turns an error into an answer in the path's own form.

    Returns: `app.state.backend` is the data plane, and `app.state.drain` counts and refuses requests.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        data_plane.start()
        try:
            async with page_at_work(page):
                yield
        finally:
            await data_plane.close()
            bodies.close()

    drain = Drain()
    status = GenerationStatus(data_plane, metrics, drain, options.plan, options.machines)
    page = None if options.page is None else PageApi(status, options.page, options.allowed_hosts)
    app = Starlette(
        routes=[*routes, *Probes(status).routes(), *page_routes(page)],
        middleware=guards(options, drain, counted, guarded, data_plane.metrics.count_refusal),
        exception_handlers=dict.fromkeys(HANDLED, answer_error),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.backend = data_plane
    app.state.drain = drain
    return app


def guards(
    options: AppOptions,
    drain: Drain,
    counted: Sequence[str],
    guarded: Sequence[str],
    count_refusal: Callable[[str], None] = lambda reason: None,
) -> list[Middleware]:
    """The middleware in front of an application, the outermost first.

    Args:
        options: see `AppOptions`.
        drain: counts requests, and refuses them once it is on.
        counted: see `assemble`.
        guarded: see `assemble`.
        count_refusal: called with the reason for which a call was refused.
    """

    def refuse(error: ShuttingDown) -> Response:
        count_refusal("draining")
        return from_exception(error).response()

    allowed, origins = options.allowed_hosts, options.cors_origins
    inner = [Middleware(DrainMiddleware, drain=drain, prefix=tuple(counted), refuse=refuse)]
    if options.api_key is not None:
        paths = (*counted, STATUS_PATH, *guarded)
        inner.insert(0, Middleware(ApiKeyMiddleware, api_key=options.api_key, prefix=paths, refuse=_refuse_key))
    if allowed is not None:
        inner.insert(0, Middleware(HostMiddleware, allowed=allowed, refuse=_refuse_host, origins=origins))
    return [*cors_guard(origins), *inner]


def _refuse_host(message: str) -> Response:
    return wrong_host(message).response()


def _refuse_key() -> Response:
    return wrong_key().response()
