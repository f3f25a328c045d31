"""Assembles the application: dialects, probes and middleware."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from shoal.embeddings.language_encoder import language_encoder
from shoal.generation.data_plane import DataPlane
from shoal.model.encoder.sentence_settings import SentenceSettings
from shoal.model.encoder.yes_no import YesNoSettings
from shoal.server.anthropic.routes import MessagesApi
from shoal.server.assembly import AppOptions, assemble
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.dialects import API_PATHS, answer_in_dialect
from shoal.server.embeddings.routes import PATHS as EMBEDDING_PATHS
from shoal.server.embeddings.routes import EmbeddingApi
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.ollama.card import UNKNOWN_CARD, ModelCard
from shoal.server.ollama.routes import OllamaApi
from shoal.server.openai.answerer import Answerer
from shoal.server.openai.answers import AnswerForms
from shoal.server.openai.models import ModelNames, refusing
from shoal.server.openai.routes import OpenAiApi
from shoal.server.openai.tokenize import TOKENIZE_PATHS, TokenizeApi
from shoal.server.responses.routes import ResponsesApi
from shoal.server.speech.paths import AUDIO_PATHS

MAX_PICTURES_BYTES = 64 << 20
"""Largest body that may contain pictures, in base64: one picture of the largest size, or twenty from a phone's
camera."""


def create_app(
    data_plane: DataPlane,
    metrics: ServerMetrics,
    *,
    model_name: str,
    options: AppOptions | None = None,
    answers: AnswerForms | None = None,
    card: ModelCard | None = None,
    strict_fields: bool = False,
    sentences: SentenceSettings | YesNoSettings | None = None,
) -> Starlette:
    """The HTTP application over a data plane, which it starts and closes in its own lifespan.

    `metrics`: counted by the data plane. `model_name`: the model's own name, besides those of its adapters.
    `options`: how the application is guarded, and what its probes show; None: the defaults.
    `answers`: how the model writes tool calls and reasoning; None: as its chat template says.
    `card`: the model's files; None: unknown.
    `strict_fields`: refuse unknown fields in bodies.
    `sentences`: how the model computes embeddings or ranks texts; None: it does neither.
    `app.state.backend` is the data plane, and `app.state.drain` counts and refuses requests.
    """

    answers = answers or AnswerForms.of(data_plane.tokenizer)
    names = ModelNames(model_name, data_plane.adapters)
    bodies = RequestBodies() if data_plane.pictures is None else RequestBodies(MAX_PICTURES_BYTES)
    answerer = Answerer(data_plane, bodies, strict_fields=strict_fields)
    routes = [
        *OpenAiApi(answerer, names, answers).routes(),
        *MessagesApi(answerer, names, answers).routes(),
        *ResponsesApi(answerer, names, answers).routes(),
        *TokenizeApi(answerer, names).routes(),
        *OllamaApi(answerer, names, answers, card or UNKNOWN_CARD).routes(),
        *_embedding_routes(data_plane, bodies, model_name, sentences, strict_fields=strict_fields),
        *refusing(AUDIO_PATHS, f"The model `{model_name}` answers texts; sound is for models of speech"),
    ]
    return assemble(
        data_plane,
        metrics,
        bodies,
        routes,
        options or AppOptions(),
        counted=API_PATHS,
        guarded=TOKENIZE_PATHS,
        answer_error=answer_in_dialect,
    )


def _embedding_routes(
    data_plane: DataPlane,
    bodies: RequestBodies,
    model_name: str,
    sentences: SentenceSettings | YesNoSettings | None,
    *,
    strict_fields: bool,
) -> list[Route]:
    if sentences is None:
        return refusing(EMBEDDING_PATHS, f"The model `{model_name}` writes texts; vectors and ranks are for encoders")
    encoder = language_encoder(data_plane, sentences)
    return EmbeddingApi(encoder, bodies, model_name, strict_fields=strict_fields).routes()
