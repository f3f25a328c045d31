"""OpenAI's speech endpoints over one transcriber: read, decode, transcribe, and answer in the requested format."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shoal.arrays import F32
from shoal.errors import InvalidRequest
from shoal.generation.readers import Readers
from shoal.server.bodies.bodies import RequestBodies
from shoal.server.bodies.forms import read_form
from shoal.server.http.disconnect import ClientGone, run_until_disconnect
from shoal.server.openai.errors import unknown_model
from shoal.server.openai.models import either_slash
from shoal.server.openai.sse import send_stream
from shoal.server.speech.paths import TRANSCRIPTIONS_PATH, TRANSLATIONS_PATH
from shoal.server.speech.schemas import SpeechForm, read_speech_form
from shoal.speech.languages import LANGUAGES
from shoal.speech.options import SpeechOptions
from shoal.speech.sound.audio import decode_audio
from shoal.speech.transcriber import WindowTranscriber
from shoal.speech.transcript import TEXT_FORMS, Transcript, as_verbose


class SpeechApi:
    """Handlers of /v1/audio/*."""

    def __init__(
        self,
        transcriber: WindowTranscriber,
        bodies: RequestBodies,
        readers: Readers,
        model_name: str,
        *,
        max_audio_s: float,
        beam_size: int,
        strict_fields: bool = False,
    ) -> None:
        """
        Args:
            transcriber: of the model.
            bodies: bounds and reads requests.
            readers: threads in which sound is decoded.
            model_name: that clients ask for.
            max_audio_s: the longest sound.
            beam_size: of searches, by default.
            strict_fields: refuse unknown fields.
        """
        self._transcriber, self._bodies, self._readers = transcriber, bodies, readers
        self._beam_size = beam_size
        self._model_name, self._max_audio_s, self._strict_fields = model_name, max_audio_s, strict_fields

    def routes(self) -> list[Route]:
        """For the app's router."""
        return [
            *either_slash(TRANSCRIPTIONS_PATH, self.transcription, "POST"),
            *either_slash(TRANSLATIONS_PATH, self.translation, "POST"),
        ]

    async def transcription(self, request: Request) -> Response:
        """POST /v1/audio/transcriptions"""
        return await self._answer(request, "transcribe")

    async def translation(self, request: Request) -> Response:
        """POST /v1/audio/translations"""
        return await self._answer(request, "translate")

    async def _answer(self, request: Request, task: str) -> Response:
        form = await self._read(request, is_translation=task == "translate")
        if form.model not in (None, self._model_name):
            raise unknown_model(form.model or "")
        samples_S = await self._readers.run(lambda: decode_audio(form.file, max_s=self._max_audio_s))
        options = SpeechOptions(
            task=task,
            language=form.language,
            prompt=form.prompt,
            temperature=form.temperature,
            timeout_s=form.timeout_s,
            beam_size=form.beam_size or self._beam_size,
            best_of=form.best_of,
            patience=form.patience,
            length_penalty=form.length_penalty,
            thresholds=form.thresholds,
            words="word" in form.granularities,
        )
        if form.streams:
            return TranscriptStream(self._transcriber, samples_S, options)
        try:
            work = self._transcriber.transcribe(samples_S, options)
            transcript = await run_until_disconnect(request.receive, work)
        except ClientGone:
            return Response(status_code=400)  # nobody reads it
        return _written(transcript, form)

    async def _read(self, request: Request, *, is_translation: bool) -> SpeechForm:
        """Raises InvalidRequest, BodyTooLarge, QueueFull."""
        content_type = request.headers.get("content-type", "")
        if not content_type.lower().startswith("multipart/form-data"):
            raise InvalidRequest("send sound as a form: multipart/form-data with a part named `file`", "file")
        async with self._bodies.read(request.scope, request.receive) as body:
            parts = await read_form(request.headers, body, "speech")
        return read_speech_form(parts, is_translation=is_translation, strict_fields=self._strict_fields)


class TranscriptStream(Response):
    """A transcript as server-sent events, window by window, which ends if the client disconnects.

    Source: OpenAI API reference, `transcript.text.delta` and `transcript.text.done`.
    """

    def __init__(self, transcriber: WindowTranscriber, samples_S: F32, options: SpeechOptions) -> None:
        super().__init__()
        self._transcriber, self._samples_S, self._options = transcriber, samples_S, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole answer."""
        await send_stream(self._events(), receive, send)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        said: list[str] = []
        async for window in self._transcriber.windows(self._samples_S, self._options):
            for segment in window.segments:
                delta = segment.text if said else segment.text.lstrip()
                said.append(delta)
                yield _event({"type": "transcript.text.delta", "delta": delta})
        yield _event({"type": "transcript.text.done", "text": "".join(said).rstrip()})


def _event(fields: dict[str, str]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def _written(transcript: Transcript, form: SpeechForm) -> Response:
    if form.response_format in TEXT_FORMS:
        media_type = "text/vtt" if form.response_format == "vtt" else "text/plain"
        return PlainTextResponse(TEXT_FORMS[form.response_format](transcript), media_type=media_type)
    if form.response_format == "verbose_json":
        language = LANGUAGES.get(transcript.language, transcript.language)
        return JSONResponse(as_verbose(transcript, language, form.granularities))
    usage = {"type": "duration", "seconds": math.ceil(transcript.duration_s)}
    return JSONResponse({"text": transcript.text, "usage": usage})
