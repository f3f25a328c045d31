"""Puts the dialects, the probes and the middleware together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from shoal.generation.data_plane import DataPlane
from shoal.model.encoder.sentence_settings import SentenceSettings
from shoal.server.anthropic.routes import MessagesApi
from shoal.server.assembly import AppOptions, assemble
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.dialects import API_PATHS, answer_in_dialect
from shoal.server.embeddings.decoder_encoder import DecoderEncoder
from shoal.server.embeddings.routes import EmbeddingApi
from shoal.server.generation.generation_status import MachineState
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.ollama.card import ModelCard
from shoal.server.ollama.routes import OllamaApi
from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.models import ModelNames, refusing
from shoal.server.openai.routes import OpenAiApi
from shoal.server.openai.tokenize import TOKENIZE_PATHS, TokenizeApi
from shoal.server.responses.routes import ResponsesApi
from shoal.server.speech.paths import AUDIO_PATHS
from shoal.server.web.routes import PageOptions

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
    page: PageOptions | None = None,
) -> Starlette:
    """The HTTP application over a data plane, which it starts and closes with its own lifespan.

    `metrics` is what the data plane counts with. `model_name` is the model's own, beside those of its adapters.
    `plan` tells `/status` how the model is split now, `machines` what it runs on; None: this machine.
    `allowed_hosts`: names that requests may give to the server and its pages, beside this machine's own; None: any.
    `answers`: how the model writes calls of tools and reasoning; None: as its chat template says.
    `card`: the model as it lies on the disk; None: nothing is known of that.
    `cors_origins`: web pages of other hosts that may use the server, see `check_origins`.
    `strict_fields`: refuse fields of bodies that nobody knows.
    `sentences`: how the model makes vectors of texts; None: it does not.
    `page`: the page at `/`; None: there is none.
    `app.state.backend` is the data plane, `app.state.drain` what counts and refuses requests.
    """

    answers = answers or AnswerForms.of(data_plane.tokenizer)
    names = ModelNames(model_name, data_plane.adapters)
    bodies = RequestBodies()
    answerer = Answerer(data_plane, bodies, strict_fields=strict_fields)
    routes = [
        *OpenAiApi(answerer, names, answers).routes(),
        *MessagesApi(answerer, names, answers).routes(),
        *ResponsesApi(answerer, names, answers).routes(),
        *TokenizeApi(answerer, names).routes(),
        *OllamaApi(answerer, names, answers, card or _UNKNOWN_CARD).routes(),
        *_embedding_routes(data_plane, bodies, model_name, sentences, strict_fields=strict_fields),
        *refusing(AUDIO_PATHS, f"The model `{model_name}` answers texts; sound is for models of speech"),
    ]
    options = AppOptions(
        api_key=api_key,
        plan=plan,
        machines=machines,
        allowed_hosts=allowed_hosts,
        cors_origins=cors_origins,
        page=page,
    )
    return assemble(
        data_plane,
        metrics,
        bodies,
        routes,
        options,
        counted=API_PATHS,
        guarded=TOKENIZE_PATHS,
        answer_error=answer_in_dialect,
    )


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
