"""The Python interface to models of speech: transcribing sound."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, cast, overload

import numpy as np
from typing_extensions import TypedDict, Unpack

from shoal.api.options import LaunchOptions, check_names, launch_config
from shoal.api.work.loop_thread import LoopThread
from shoal.api.work.model_at_work import at_work, recovery_of, unmetered_plane
from shoal.arrays import F32
from shoal.core.plan.language import Plan
from shoal.errors import InvalidRequest
from shoal.generation.data_plane import DataPlane
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.launch.loaded_model import LoadedModel
from shoal.machines.machines import Machines
from shoal.model.formats.speech_files import speech_model
from shoal.speech.options import SpeechOptions
from shoal.speech.sound.audio import decode_audio
from shoal.speech.transcriber import WindowTranscriber
from shoal.speech.transcript import SpeechSegment, Transcript
from shoal.speech.vocabulary import read_vocabulary
from shoal.speech.window import Thresholds

__all__ = ["SpeechSegment", "Thresholds", "Transcriber", "Transcript"]

Sound = str | Path | bytes | F32
"""An audio file, its bytes, or samples at 16 kHz between -1 and 1."""
SPEECH_DEFAULTS = LaunchOptions(max_seqs=24, prompt_tokens=4, output_tokens=100)
"""The defaults of a model of speech. Sequences of a replica that run at once: four searches of five beams, and requests
that detect languages. Tokens to plan for: those that begin a text, and those of 30 s of speech. A judgment: clips
differ."""
_MAX_AUDIO_S = 24 * 3600.0
"""The longest sound: its samples are 5.5 GB."""


class TranscribeOptions(TypedDict, total=False):
    """Options of `transcribe`: language, task, timestamps and the search for words."""

    language: str | None
    """The spoken language, as a code or a name; None: the model detects it."""
    prompt: str
    """Text to assume before the sound, for example names in their right spelling."""
    temperature: float | Sequence[float]
    """The sampling temperature. 0 (the default) starts there and rises where the text comes out badly; another value is
    kept; of several values, each is tried after the one before."""
    beam_size: int
    """Hypotheses that are followed at temperature 0, 5 by default; 1 takes the likeliest token every time."""
    patience: float
    """A search ends when `patience` times `beam_size` hypotheses have ended; 1 by default."""
    length_penalty: float | None
    """See `SpeechOptions`; None (the default) compares texts by their mean log-probability."""
    best_of: int
    """Texts that are drawn at a temperature above 0, of which the likeliest is kept; 5 by default."""
    thresholds: Thresholds
    """The limits within which a text is accepted."""
    words: bool
    """Whether to find the times of each word; see `SpeechSegment.words`."""
    task: Literal["transcribe", "translate"]
    """`transcribe` (the default), or `translate` into English."""


class Transcriber:
    """A loaded model of speech. Close it, or use it in a `with` block. Thread-safe.

    A worker that dies is started again, and its requests continue.

    Examples:
        >>> with shoal.Transcriber("whisper-tiny.en", split="dp=2") as model:  # doctest: +SKIP
        ...     for segment in model.transcribe("meeting.m4a").segments:
        ...         print(segment.start_s, segment.text)
    """

    def __init__(self, model: str | Path, **options: Unpack[LaunchOptions]) -> None:
        """Plan, start the workers and load the weights.

        Args:
            model: a folder with a Whisper model (in the format of Hugging Face or of CTranslate2), `hf:org/name` or
                `pkg:NAME`.
            options: see `LaunchOptions`; `max_seqs` is 24 by default.

        Raises:
            ConfigError: an option is unknown or makes no sense for this model.
            ModelLoadError: the model is missing, broken or of another kind.
            CapacityError: the model does not fit into memory.
            WorkerLost: workers died while they were loading, again and again.
        """
        self._load(model, options, None)

    @classmethod
    def on(cls, machines: Machines | None, model: str | Path, **options: Unpack[LaunchOptions]) -> Transcriber:
        """The same on machines that are open already, which it leaves when it is closed; None: as the options say."""
        one = cls.__new__(cls)
        one._load(model, options, machines)
        return one

    @classmethod
    def over(cls, loaded: LoadedModel) -> Transcriber:
        """Wrap a model that was loaded by other means and own it from now on."""
        one = cls.__new__(cls)
        one._own(loaded)
        return one

    def _load(self, model: str | Path, options: LaunchOptions, machines: Machines | None) -> None:
        given = cast(LaunchOptions, {**SPEECH_DEFAULTS, **options})
        config = launch_config(speech_model(str(model)), given)
        self._own(launch(plan_model(config, machines=machines), recovery=recovery_of(options)))

    def _own(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        data_plane = self._data_plane = unmetered_plane(loaded)
        self._windows = window_transcriber(loaded, data_plane)
        self._thread = LoopThread(partial(at_work, loaded, data_plane), "Transcriber")
        self._finalizer = weakref.finalize(self, self._thread.close)

    @property
    def plan(self) -> Plan:
        """The current plan: which worker runs what."""
        return self._loaded.running_plan

    @property
    def failure(self) -> str | None:
        """The reason why the model can no longer transcribe; None while it can."""
        return self._data_plane.failure

    @overload
    def transcribe(self, sounds: Sound, **options: Unpack[TranscribeOptions]) -> Transcript: ...
    @overload
    def transcribe(self, sounds: list[Sound], **options: Unpack[TranscribeOptions]) -> list[Transcript]: ...
    def transcribe(
        self, sounds: Sound | list[Sound], **options: Unpack[TranscribeOptions]
    ) -> Transcript | list[Transcript]:
        """Transcribe sound, with the times of each segment.

        Args:
            sounds: a file, its bytes, or samples at 16 kHz; or a list of these, which are computed together.
            options: see `TranscribeOptions`.

        Returns:
            One transcript; for a list, a list in its order.

        Raises:
            InvalidRequest: a sound cannot be read, or the model does not know the language.
            MissingExtra: a file is given and PyAV is not installed.
            RequestError: three replicas in a row were lost to this sound.
            WorkerLost: no worker is left to compute on, and none could be started again.
            ModelClosed: the model was closed before or during the call.
        """
        check_names(options, TranscribeOptions.__annotations__, InvalidRequest)
        asked = SpeechOptions(**options)
        if isinstance(sounds, list):
            return self._thread.run(self._transcribe_all(sounds, asked))
        return self._thread.run(self._windows.transcribe(_samples(sounds), asked))

    async def atranscribe(self, sound: Sound, **options: Unpack[TranscribeOptions]) -> Transcript:
        """The asyncio form of `transcribe`, for one sound. Cancelling the wait cancels the call."""
        check_names(options, TranscribeOptions.__annotations__, InvalidRequest)
        samples_S = await asyncio.to_thread(_samples, sound)
        return await self._thread.arun(self._windows.transcribe(samples_S, SpeechOptions(**options)))

    def close(self) -> None:
        """End every call, stop all workers and free their memory. Idempotent; running calls raise ModelClosed."""
        self._thread.close()
        self._finalizer.detach()

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _transcribe_all(self, sounds: list[Sound], options: SpeechOptions) -> list[Transcript]:
        async def one(sound: Sound) -> Transcript:
            samples_S = await asyncio.to_thread(_samples, sound)
            return await self._windows.transcribe(samples_S, options)

        tasks = [asyncio.create_task(one(sound)) for sound in sounds]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def window_transcriber(loaded: LoadedModel, data_plane: DataPlane) -> WindowTranscriber:
    """Make a transcriber over a loaded model. Raises ModelLoadError if its tokenizer lacks Whisper's tokens."""
    vocabulary = read_vocabulary(loaded.path, loaded.tokenizer, loaded.decoder.vocab_size)
    return WindowTranscriber(data_plane, loaded.decoder, vocabulary)


def _samples(sound: Sound) -> F32:
    """Raises InvalidRequest."""
    if isinstance(sound, np.ndarray):
        if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
            raise InvalidRequest(
                f"samples must be floats in one dimension, not {sound.dtype} in {sound.ndim}", "sounds"
            )
        return np.ascontiguousarray(sound, dtype=np.float32)
    if isinstance(sound, bytes):
        return decode_audio(sound, max_s=_MAX_AUDIO_S, param="sounds")
    try:
        data = Path(sound).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {str(sound)!r}: {error.strerror or error}", "sounds") from None
    return decode_audio(data, max_s=_MAX_AUDIO_S, param=str(sound))
