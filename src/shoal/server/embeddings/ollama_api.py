"""Embeddings for Ollama's clients: /api/embed, and /api/embeddings for older ones."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal.embeddings.encoder import Encoded, TextEncoder
from shoal.embeddings.vectors import shortened
from shoal.errors import InvalidRequest
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.embeddings.calls import answered, bounded_body
from shoal.server.embeddings.schemas import texts_of
from shoal.server.http.health.probes import server_version
from shoal.server.ollama.card import UNKNOWN_CARD
from shoal.server.ollama.description import PullBody, ShowBody, pulled
from shoal.server.ollama.errors import answer_api_exception
from shoal.server.ollama.routes import API_PATH
from shoal.server.ollama.schemas import Options
from shoal.server.openai.body.api_schema import ApiSchema
from shoal.server.openai.errors import unknown_model

EMBED_PATHS = ("/api/embed", "/api/embeddings")
_NS = 1_000_000_000


class EmbedBody(ApiSchema):
    """POST /api/embed."""

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[tuple[str, ...], BeforeValidator(texts_of)]
    truncate: bool | None = None
    """Whether to truncate texts that are too long, which is the default; otherwise they are refused."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    """Ignored, because models stay loaded."""


class OldEmbedBody(ApiSchema):
    """POST /api/embeddings."""

    model: Annotated[str, Field(min_length=1)]
    prompt: str
    options: Options | None = None
    keep_alive: float | str | None = None
    """Ignored, because models stay loaded."""


class OllamaEmbedApi:
    """Handlers over one encoder."""

    def __init__(self, encoder: TextEncoder, bodies: RequestBodies, model_name: str) -> None:
        self._encoder = encoder
        self._bodies = bodies
        self._model_name = model_name

    def routes(self) -> list[Route]:
        """For the app's router."""
        embed, old_embed = EMBED_PATHS
        return [
            answered(embed, self.embed, answer_api_exception),
            answered(old_embed, self.old_embed, answer_api_exception),
        ]

    def description_routes(self) -> list[Route]:
        """The routes with which Ollama's clients find the model, for a server that has no such routes yet."""
        return [
            Route(f"{API_PATH}tags", self.tags, methods=["GET"]),
            Route(f"{API_PATH}ps", self.running, methods=["GET"]),
            Route(f"{API_PATH}version", self.version, methods=["GET"]),
            answered(f"{API_PATH}show", self.show, answer_api_exception),
            answered(f"{API_PATH}pull", self.pull, answer_api_exception),
        ]

    async def tags(self, request: Request) -> Response:
        """GET /api/tags"""
        return JSONResponse({"models": [UNKNOWN_CARD.listed(self._model_name)]})

    async def running(self, request: Request) -> Response:
        """GET /api/ps"""
        return JSONResponse({"models": [UNKNOWN_CARD.running(self._model_name)]})

    async def version(self, request: Request) -> Response:
        """GET /api/version"""
        return JSONResponse({"version": server_version()})

    async def show(self, request: Request) -> Response:
        """POST /api/show"""
        async with bounded_body(request, self._bodies) as content:
            body = ShowBody.model_validate_json(content)
        self._check_name(body.named)
        details = {"details": UNKNOWN_CARD.details(), "modified_at": UNKNOWN_CARD.modified_at()}
        texts = {"template": "", "modelfile": "", "parameters": ""}
        capabilities = [] if self._encoder.compares else ["embedding"]
        return JSONResponse({**details, **texts, "model_info": {}, "capabilities": capabilities})

    async def pull(self, request: Request) -> Response:
        """POST /api/pull, which has nothing to do for the model that is served."""
        async with bounded_body(request, self._bodies) as content:
            body = PullBody.model_validate_json(content)
        self._check_name(body.named)
        return pulled(body)

    async def embed(self, request: Request) -> Response:
        """POST /api/embed"""
        begun_s = time.monotonic()
        async with bounded_body(request, self._bodies) as content:
            body = EmbedBody.model_validate_json(content)
        encoded = await self._encode(body.model, body.input, cuts=body.truncate is not False)
        vectors = encoded.values if body.dimensions is None else shortened(encoded.values, body.dimensions)
        return JSONResponse(
            {
                "model": self._model_name,
                "embeddings": vectors.tolist(),
                "total_duration": int((time.monotonic() - begun_s) * _NS),
                "load_duration": 0,
                "prompt_eval_count": encoded.num_tokens,
            }
        )

    async def old_embed(self, request: Request) -> Response:
        """POST /api/embeddings"""
        async with bounded_body(request, self._bodies) as content:
            body = OldEmbedBody.model_validate_json(content)
        encoded = await self._encode(body.model, (body.prompt,), cuts=True)
        return JSONResponse({"embedding": encoded.values[0].tolist()})

    async def _encode(self, model: str, texts: tuple[str, ...], *, cuts: bool) -> Encoded:
        self._check_name(model)
        if self._encoder.compares:
            raise InvalidRequest("this model compares texts and makes no vectors: use /v1/rerank or /v1/score")
        return await self._encoder.embed(texts, cuts=cuts)

    def _check_name(self, model: str) -> None:
        if model.removesuffix(":latest") != self._model_name.removesuffix(":latest"):
            raise unknown_model(model)
