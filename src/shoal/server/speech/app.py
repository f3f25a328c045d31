"""The HTTP application of a speech model."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette

from shoal.generation.data_plane import DataPlane
from shoal.server.assembly import AppOptions, assemble
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.openai.errors import answer_exception
from shoal.server.openai.models import ModelNames, ModelsApi, refusing
from shoal.server.speech.paths import MAX_UPLOAD_BYTES
from shoal.server.speech.routes import SpeechApi
from shoal.speech.options import BEAM_SIZE
from shoal.speech.transcriber import WindowTranscriber

_API = ("/v1",)
_OTHERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSettings:
    """Limits for clients, and defaults."""

    max_upload_bytes: int = MAX_UPLOAD_BYTES
    """Limit for a request."""
    max_audio_s: float = 3600.0
    """Longest sound; an hour is 230 MB of samples."""
    beam_size: int = BEAM_SIZE
    """Hypotheses of searches, by default."""


def create_speech_app(
    data_plane: DataPlane,
    metrics: ServerMetrics,
    transcriber: WindowTranscriber,
    *,
    model_name: str,
    options: AppOptions,
    settings: SpeechSettings | None = None,
    strict_fields: bool = False,
) -> Starlette:
    """The HTTP application over a data plane, see `assemble`.

    Args:
        data_plane: of the model.
        metrics: counted by the data plane.
        transcriber: over the data plane.
        model_name: that clients ask for.
        options: see `AppOptions`.
        settings: None: the defaults.
        strict_fields: refuse unknown fields.
    """
    settings = settings or SpeechSettings()
    bodies = RequestBodies(settings.max_upload_bytes)
    api = SpeechApi(
        transcriber,
        bodies,
        data_plane.readers,
        model_name,
        max_audio_s=settings.max_audio_s,
        beam_size=settings.beam_size,
        strict_fields=strict_fields,
    )
    message = f"The model `{model_name}` transcribes speech: POST /v1/audio/transcriptions"
    routes = [
        *api.routes(),
        *ModelsApi(ModelNames(model_name), data_plane.max_context).routes(),
        *refusing(_OTHERS, message),
    ]
    return assemble(data_plane, metrics, bodies, routes, options, counted=_API, answer_error=answer_exception)
