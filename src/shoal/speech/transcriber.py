"""From samples to a transcript: sound is cut into pieces, and these into windows, each decoded after the previous
one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from shoal.arrays import F32
from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.model.decoder_config import DecoderConfig
from shoal.speech.languages import language_code
from shoal.speech.options import SpeechOptions
from shoal.speech.sound.features import HOP_SAMPLES, SAMPLE_RATE
from shoal.speech.sound.pieces import pieces_of
from shoal.speech.sound.voice import SampleSpan
from shoal.speech.transcript import SpeechSegment, Transcript
from shoal.speech.vocabulary import SpeechVocabulary
from shoal.speech.window import read_window
from shoal.speech.window_decoder import WindowDecoder

_MAX_SIDE_BY_SIDE = 16
"""Windows of one call that are decoded at the same time: enough to keep the replicas busy without more features in
memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowText:
    """The segments of one window, and its language."""

    segments: Sequence[SpeechSegment]
    language: str


class WindowTranscriber:
    """Transcribes with one served model."""

    def __init__(self, data_plane: DataPlane, decoder: DecoderConfig, vocabulary: SpeechVocabulary) -> None:
        """
        Args:
            data_plane: of the model.
            decoder: of the model, which has an encoder.
            vocabulary: of the model.
        """
        encoder = decoder.encoder
        assert encoder is not None
        self._data_plane, self._encoder, self._vocabulary = data_plane, encoder, vocabulary
        self._decoder = WindowDecoder(data_plane, decoder, encoder, vocabulary)
        self._tokenizer = data_plane.tokenizer

    @property
    def is_multilingual(self) -> bool:
        """Whether the model supports languages other than English."""
        return bool(self._vocabulary.languages)

    async def transcribe(self, samples_S: F32, options: SpeechOptions) -> Transcript:
        """Transcribe a whole sound. Raises as `windows`."""
        segments: list[SpeechSegment] = []
        language = ""
        async for window in self.windows(samples_S, options):
            segments += window.segments
            language = language or window.language
        return Transcript(
            task=options.task, language=language, duration_s=len(samples_S) / SAMPLE_RATE, segments=segments
        )

    async def windows(self, samples_S: F32, options: SpeechOptions) -> AsyncGenerator[WindowText, None]:
        """Transcribe window by window, in order, each as soon as it is decoded.

        Args:
            samples_S: the sound, at 16 kHz.
            options: of the transcription.

        Raises:
            InvalidRequest: the model does not support the language, or cannot translate.
            QueueFull, DeadlineExceeded, RequestError, WorkerLost: as `DataPlane.collect`.
        """
        before = self._check(options)
        clip_samples = self._encoder.num_frames * HOP_SAMPLES
        pieces = await self._data_plane.readers.run(lambda: pieces_of(samples_S, clip_samples))
        language = self._known_language(options)
        if not pieces:
            return
        if language is None:  # the first piece determines it for all
            first = await self._decoder.clip(samples_S, pieces[0].start, pieces[0].stop)
            language, _ = await self._decoder.listen(first, options)
        places = asyncio.Semaphore(_MAX_SIDE_BY_SIDE)
        told: list[asyncio.Queue[Sequence[SpeechSegment] | None]] = [asyncio.Queue() for _ in pieces]
        tasks = [
            asyncio.create_task(self._piece(samples_S, piece, options, language, before, places, queue))
            for piece, queue in zip(pieces, told, strict=True)
        ]
        try:
            for task, queue in zip(tasks, told, strict=True):
                task.add_done_callback(lambda _, queue=queue: queue.put_nowait(None))
                while (segments := await queue.get()) is not None:
                    yield WindowText(segments=segments, language=language)
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, options: SpeechOptions) -> tuple[int, ...]:
        """Tokens before each window's prompt, for the preceding text. Raises InvalidRequest."""
        vocabulary = self._vocabulary
        if options.task == "translate" and (not self.is_multilingual or vocabulary.translate is None):
            raise InvalidRequest("the model knows English only: there is nothing to translate into English", "model")
        if not options.prompt or vocabulary.previous is None:
            return ()
        self._data_plane.prompts.check_length([options.prompt], "prompt")
        ids = self._tokenizer.encode(" " + options.prompt.strip(), add_special=False)
        kept = ids[-(self._data_plane.max_context // 2 - 1) :]
        return vocabulary.previous, *kept

    def _known_language(self, options: SpeechOptions) -> str | None:
        """The language if it need not be detected."""
        if options.language is None:
            return None if self.is_multilingual else "en"
        code = language_code(options.language)
        if self.is_multilingual:
            self._vocabulary.language_token(code)
        elif code != "en":
            raise InvalidRequest(f"the model knows English only, not {options.language[:40]!r}", "language")
        return code

    async def _piece(
        self,
        samples_S: F32,
        piece: SampleSpan,
        options: SpeechOptions,
        language: str,
        before: tuple[int, ...],
        places: asyncio.Semaphore,
        told: asyncio.Queue[Sequence[SpeechSegment] | None],
    ) -> None:
        """Put the segments of a piece into `told`, window by window: each window begins where the previous one
        ended."""
        last_end_s = piece.start / SAMPLE_RATE
        seek = piece.start // HOP_SAMPLES
        end = -(-piece.stop // HOP_SAMPLES)
        while seek < end:
            async with places:
                num_frames = min(end - seek, self._encoder.num_frames)
                stop = min(piece.stop, (seek + num_frames) * HOP_SAMPLES)
                clip = await self._decoder.clip(samples_S, seek * HOP_SAMPLES, stop)
                decoded = await self._decoder.decode(clip, options, language, before)
            window = read_window(
                decoded,
                self._vocabulary,
                self._tokenizer.decode,
                seek_frames=seek,
                num_frames=num_frames,
                thresholds=options.thresholds,
            )
            said = window.segments
            if options.words and said:
                said = await self._decoder.with_words(clip, said, options, language, num_frames, last_end_s)
            told.put_nowait(said)
            last_end_s = said[-1].end_s if said else last_end_s
            seek += window.num_frames
