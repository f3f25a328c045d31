"""Puts the dialects, the probes and the middleware together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from shoal.server.auth import ApiKeyMiddleware
from shoal.server.data_plane import DataPlane
from shoal.server.openai.errors import HANDLED, answer_exception
from shoal.server.openai.routes import OpenAiApi
from shoal.server.probes import Probes


def create_app(data_plane: DataPlane, *, model_name: str, api_key: str | None = None) -> Starlette:
    """The HTTP application over a data plane, which it starts and closes with its own lifespan.

    `app.state.data_plane` is the data plane.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        data_plane.start()
        try:
            yield
        finally:
            await data_plane.close()

    app = Starlette(
        routes=[*OpenAiApi(data_plane, model_name).routes(), *Probes(data_plane).routes()],
        middleware=[Middleware(ApiKeyMiddleware, api_key=api_key)] if api_key else [],
        exception_handlers=dict.fromkeys(HANDLED, answer_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.data_plane = data_plane
    return app
