"""Puts the dialects, the probes and the middleware together."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shoal.errors import ShuttingDown
from shoal.generation.data_plane import DataPlane
from shoal.model.encoder.sentence_settings import SentenceSettings
from shoal.server.anthropic.errors import answer_message_exception
from shoal.server.anthropic.routes import MESSAGES_PATH, MessagesApi
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.embeddings.decoder_encoder import DecoderEncoder
from shoal.server.embeddings.routes import PATHS as EMBEDDING_PATHS
from shoal.server.embeddings.routes import EmbeddingApi
from shoal.server.generation.generation_status import GenerationStatus, MachineState
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.auth import ApiKeyMiddleware
from shoal.server.http.draining import Drain, DrainMiddleware
from shoal.server.http.health.probes import STATUS_PATH, Probes
from shoal.server.http.host_check import HostMiddleware, cors_guard
from shoal.server.ollama.card import ModelCard
from shoal.server.ollama.errors import answer_api_exception
from shoal.server.ollama.routes import API_PATH, OllamaApi
from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.errors import HANDLED, answer_exception, from_exception, wrong_host, wrong_key
from shoal.server.openai.routes import OpenAiApi
from shoal.server.openai.tokenize import TOKENIZE_PATHS, TokenizeApi
from shoal.server.responses.routes import ResponsesApi

_API = ("/v1", API_PATH, *(path for path in EMBEDDING_PATHS if not path.startswith("/v1/")))
"""Paths that are counted, and refused while the server drains."""
_GUARDED = (*_API, STATUS_PATH, *TOKENIZE_PATHS)
"""Paths that need the key, where there is one."""
_DIALECTS = {MESSAGES_PATH: answer_message_exception, API_PATH: answer_api_exception}
"""How errors are told, by how paths begin; of all others as OpenAI does."""
_UNKNOWN_CARD = ModelCard(family="", format="", precision="")


def create_app(
    data_plane: DataPlane,
    metrics: ServerMetrics,
    *,
    model_name: str,
    api_key: str | None = None,
    plan: Callable[[], Mapping[str, Any]] = dict,
    machines: MachineState | None = None,
    allowed_hosts: Sequence[str] | None = None,
    answers: AnswerForms | None = None,
    card: ModelCard | None = None,
    cors_origins: Sequence[str] = (),
    strict_fields: bool = False,
    sentences: SentenceSettings | None = None,
) -> Starlette:
    """The HTTP application over a data plane, which it starts and closes with its own lifespan.

    `metrics` is what the data plane counts with.
    `plan` tells `/status` how the model is split now, `machines` what it runs on; None: this machine.
    `allowed_hosts`: names that requests may give to the server and its pages, beside this machine's own; None: any.
    `answers`: how the model writes calls of tools and reasoning; None: as its chat template says.
    `card`: the model as it lies on the disk; None: nothing is known of that.
    `cors_origins`: web pages of other hosts that may use the server, see `check_origins`.
    `strict_fields`: refuse fields of bodies that nobody knows.
    `sentences`: how the model makes vectors of texts; None: it does not.
    `app.state.backend` is the data plane, `app.state.drain` what counts and refuses requests.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        data_plane.start()
        try:
            yield
        finally:
            await data_plane.close()
            bodies.close()

    answers = answers or AnswerForms.of(data_plane.tokenizer)
    bodies = RequestBodies()
    answerer = Answerer(data_plane, bodies, strict_fields=strict_fields)
    drain = Drain()
    status = GenerationStatus(data_plane, metrics, drain, plan, machines)
    app = Starlette(
        routes=[
            *OpenAiApi(answerer, model_name, answers).routes(),
            *MessagesApi(answerer, model_name, answers).routes(),
            *ResponsesApi(answerer, model_name, answers).routes(),
            *TokenizeApi(answerer, model_name).routes(),
            *OllamaApi(answerer, model_name, answers, card or _UNKNOWN_CARD).routes(),
            *_embedding_routes(data_plane, bodies, model_name, sentences, strict_fields=strict_fields),
            *Probes(status).routes(),
        ],
        middleware=_guards(api_key, drain, data_plane, allowed_hosts, cors_origins),
        exception_handlers=dict.fromkeys(HANDLED, _answer_exception),
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.backend = data_plane
    app.state.drain = drain
    return app


def _embedding_routes(
    data_plane: DataPlane,
    bodies: RequestBodies,
    model_name: str,
    sentences: SentenceSettings | None,
    *,
    strict_fields: bool,
) -> list[Route]:
    if sentences is None:
        return []
    encoder = DecoderEncoder(data_plane, sentences)
    return EmbeddingApi(encoder, bodies, model_name, strict_fields=strict_fields).routes()


async def _answer_exception(request: Request, error: Exception) -> Response:
    """In the form of the dialect that the path belongs to."""
    path = request.url.path
    answer = next((one for prefix, one in _DIALECTS.items() if path.startswith(prefix)), answer_exception)
    return await answer(request, error)


def _guards(
    api_key: str | None,
    drain: Drain,
    data_plane: DataPlane,
    allowed_hosts: Sequence[str] | None,
    cors_origins: Sequence[str],
) -> list[Middleware]:
    def refuse(error: ShuttingDown) -> Response:
        data_plane.metrics.count_refusal("draining")
        return from_exception(error).response()

    guards = [Middleware(DrainMiddleware, drain=drain, prefix=_API, refuse=refuse)]
    if api_key is not None:
        guards.insert(
            0,
            Middleware(ApiKeyMiddleware, api_key=api_key, prefix=_GUARDED, refuse=_refuse_key),
        )
    if allowed_hosts is not None:
        guards.insert(0, Middleware(HostMiddleware, allowed=allowed_hosts, refuse=_refuse_host, origins=cors_origins))
    return [*cors_guard(cors_origins), *guards]


def _refuse_host(message: str) -> Response:
    return wrong_host(message).response()


def _refuse_key() -> Response:
    return wrong_key().response()
