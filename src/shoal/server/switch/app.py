"""One address for several models: calls are forwarded to the server of the model that they name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from shoal.server.assembly import AppOptions, guards
from shoal.server.dialects import API_PATHS, answer_in_dialect
from shoal.server.http.draining import Drain
from shoal.server.http.health.probes import Probes
from shoal.server.ollama.routes import API_PATH
from shoal.server.openai.errors import HANDLED
from shoal.server.openai.models import either_slash
from shoal.server.openai.sse import Rhythm
from shoal.server.openai.tokenize import TOKENIZE_PATHS
from shoal.server.switch.calls import SwitchCalls
from shoal.server.switch.switch_status import SwitchStatus
from shoal.server.switch.switchboard import Switchboard
from shoal.server.web.routes import PageApi, page_at_work, page_routes

_CONNECT_TIMEOUT_S = 10.0
_SIGNAL_S = 0.1
"""Time between two checks for a signal while models are loaded."""
_STORED = "/v1/responses/{name}"


def create_switch_app(
    switchboard: Switchboard,
    *,
    server_key: str,
    options: AppOptions,
    rhythm: Rhythm | None = None,
) -> Starlette:
    """The HTTP application over servers of single models, which end in its own lifespan.

    Args:
        switchboard: the models' servers.
        server_key: that those servers require.
        options: how the application is guarded.
        rhythm: of streams; None: the default.
    """
    drain = Drain()
    client = httpx.AsyncClient(
        timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),  # the servers themselves limit the time of their calls
        limits=httpx.Limits(max_connections=None),  # and the number of calls
        headers={"authorization": f"Bearer {server_key}"},
        trust_env=False,
    )
    calls = SwitchCalls(switchboard, client, rhythm or Rhythm())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        try:
            if reason := await _loaded(switchboard, drain):
                drain.leave(reason)
            async with page_at_work(page):
                yield
        finally:
            await backend.close()

    backend = _Backend(switchboard, client, calls)
    status = SwitchStatus(switchboard, client, drain)
    page = None if options.page is None else PageApi(status, options.page, options.allowed_hosts)
    app = Starlette(
        routes=[
            *Probes(status).routes(),
            *page_routes(page),
            *either_slash("/v1/models", calls.models, "GET"),
            Route("/v1/models/{name:path}", calls.model, methods=["GET"]),
            Route(f"{API_PATH}tags", calls.tags, methods=["GET"]),
            Route(f"{API_PATH}ps", calls.running, methods=["GET"]),
            Route(f"{API_PATH}version", calls.version, methods=["GET"]),
            Route(_STORED, calls.stored, methods=["GET", "DELETE"]),
            Route("/{path:path}", calls.forward, methods=["POST"]),
        ],
        middleware=guards(options, drain, API_PATHS, TOKENIZE_PATHS),
        exception_handlers=dict.fromkeys(HANDLED, answer_in_dialect),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.backend, app.state.drain = backend, drain
    return app


async def _loaded(switchboard: Switchboard, drain: Drain) -> str | None:
    """As `load_all`, but given up at once when a signal ends the server."""
    loading = asyncio.ensure_future(switchboard.load_all())
    while not loading.done() and not drain.is_on:
        await asyncio.wait({loading}, timeout=_SIGNAL_S)
    if loading.done():
        return loading.result()
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    return None


class _Backend:
    """Implements `serve.Backend`. A model whose workers are gone permanently is started again by the next call."""

    def __init__(self, switchboard: Switchboard, client: httpx.AsyncClient, calls: SwitchCalls) -> None:
        self.on_death = None
        self._switchboard, self._client, self._calls = switchboard, client, calls

    async def close(self) -> None:
        """End all servers. Idempotent."""
        await self._switchboard.close()
        await self._client.aclose()
        self._calls.close()
