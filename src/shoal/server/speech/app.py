"""The HTTP application of a model of speech."""

from __future__ import annotations

from starlette.applications import Starlette

from shoal.generation.data_plane import DataPlane
from shoal.server.assembly import AppOptions, assemble
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.openai.errors import answer_exception
from shoal.server.openai.models import ModelNames, ModelsApi, refusing
from shoal.server.speech.routes import SpeechApi
from shoal.speech.transcriber import Transcriber

MAX_UPLOAD_BYTES = 64 << 20
"""Of a request, unless it was said otherwise: above the 25 MB that OpenAI takes."""
MAX_AUDIO_S = 3600.0
"""The same of sound: an hour is 230 MB of samples."""
_API = ("/v1",)
_OTHERS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")


def create_speech_app(
    data_plane: DataPlane,
    metrics: ServerMetrics,
    transcriber: Transcriber,
    *,
    model_name: str,
    options: AppOptions,
    max_upload_bytes: int = MAX_UPLOAD_BYTES,
    max_audio_s: float = MAX_AUDIO_S,
    strict_fields: bool = False,
) -> Starlette:
    """The HTTP application over a data plane, see `assemble`.

    Args:
        data_plane: of the model.
        metrics: what the data plane counts with.
        transcriber: over the data plane.
        model_name: that clients ask for.
        options: see there.
        max_upload_bytes: the largest request.
        max_audio_s: the longest sound.
        strict_fields: refuse fields that nobody knows.
    """
    bodies = RequestBodies(max_upload_bytes)
    api = SpeechApi(
        transcriber,
        bodies,
        data_plane.readers,
        model_name,
        max_audio_s=max_audio_s,
        strict_fields=strict_fields,
    )
    message = f"The model `{model_name}` transcribes speech: POST /v1/audio/transcriptions"
    routes = [
        *api.routes(),
        *ModelsApi(ModelNames(model_name), data_plane.max_context).routes(),
        *refusing(_OTHERS, message),
    ]
    return assemble(data_plane, metrics, bodies, routes, options, counted=_API, answer_error=answer_exception)
