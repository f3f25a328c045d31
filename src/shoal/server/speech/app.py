"""The HTTP application of a model of speech."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette

from shoal.generation.data_plane import DataPlane
from shoal.server.assembly import AppOptions, assemble
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.openai.errors import answer_exception
from shoal.server.openai.models import ModelNames, ModelsApi, refusing
from shoal.server.speech.routes import SpeechApi
from shoal.speech.transcriber import WindowTranscriber

_API = ("/v1",)
_OTHERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechBounds:
    """What is taken of a client."""

    max_upload_bytes: int = 64 << 20
    """of a request; OpenAI takes 25 MB"""
    max_audio_s: float = 3600.0
    """of its sound; an hour is 230 MB of samples"""


def create_speech_app(
    data_plane: DataPlane,
    metrics: ServerMetrics,
    transcriber: WindowTranscriber,
    *,
    model_name: str,
    options: AppOptions,
    bounds: SpeechBounds | None = None,
    strict_fields: bool = False,
) -> Starlette:
    """The HTTP application over a data plane, see `assemble`.

    Args:
        data_plane: of the model.
        metrics: what the data plane counts with.
        transcriber: over the data plane.
        model_name: that clients ask for.
        options: see there.
        bounds: what is taken of a client; None: the defaults.
        strict_fields: refuse fields that nobody knows.
    """
    bounds = bounds or SpeechBounds()
    bodies = RequestBodies(bounds.max_upload_bytes)
    api = SpeechApi(
        transcriber,
        bodies,
        data_plane.readers,
        model_name,
        max_audio_s=bounds.max_audio_s,
        strict_fields=strict_fields,
    )
    message = f"The model `{model_name}` transcribes speech: POST /v1/audio/transcriptions"
    routes = [
        *api.routes(),
        *ModelsApi(ModelNames(model_name), data_plane.max_context).routes(),
        *refusing(_OTHERS, message),
    ]
    return assemble(data_plane, metrics, bodies, routes, options, counted=_API, answer_error=answer_exception)
