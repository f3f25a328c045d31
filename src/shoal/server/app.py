"""Puts the dialects, the probes and the middleware together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from shoal.server.auth import ApiKeyMiddleware
from shoal.server.data_plane import DataPlane
from shoal.server.generation_status import GenerationStatus
from shoal.server.openai.errors import HANDLED, answer_exception, wrong_key
from shoal.server.openai.routes import OpenAiApi
from shoal.server.probes import Probes


def create_app(data_plane: DataPlane, *, model_name: str, api_key: str | None = None) -> Starlette:
    """The HTTP application over a data plane, which it starts and closes with its own lifespan.

    `app.state.mortal` is the data plane.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        data_plane.start()
        try:
            yield
        finally:
            await data_plane.close()

    app = Starlette(
        routes=[*OpenAiApi(data_plane, model_name).routes(), *Probes(GenerationStatus(data_plane)).routes()],
        middleware=_guards(api_key),
        exception_handlers=dict.fromkeys(HANDLED, answer_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.mortal = data_plane
    return app


def _guards(api_key: str | None) -> list[Middleware]:
    if not api_key:
        return []
    return [Middleware(ApiKeyMiddleware, api_key=api_key, prefix="/v1", refuse=lambda: wrong_key().response())]
