"""Where somebody speaks: Silero's voice detector, computed by ONNX Runtime.

Its package requires PyTorch, which its model file does not need; so the file is located without importing the package.
Source: github.com/snakers4/silero-vad, src/silero_vad/sequence_vad.py, for the model's inputs and its defaults.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.formats.model_path import package_file
from shoal.speech.sound.features import SAMPLE_RATE

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FRAME_SAMPLES = 512
"""Samples for one probability: 32 ms."""
_CONTEXT_SAMPLES = 64
"""Samples of the previous frame with which each frame begins."""
_STATE = 128
_BLOCK_FRAMES = 512
"""Frames that are computed at once."""
_MODEL = "silero_vad/data/silero_vad_16k_sequence.onnx"
_BEGINS, _ENDS = 0.5, 0.35
"""Probabilities at which speech begins, and below which it ends."""
_LEAST_SILENCE_S, _LEAST_SPEECH_S = 0.3, 0.25
"""Shorter silences and sounds are ignored."""


class SampleSpan(NamedTuple):
    """Samples [start, stop) in which somebody speaks."""

    start: int
    stop: int


def voice_available() -> bool:
    """Whether the voice detector is installed."""
    try:
        package_file(_MODEL)
    except ModelLoadError:
        return False
    return True


def voice_probabilities(samples_S: F32) -> F32:
    """For each frame, the probability that somebody speaks. Raises ModelLoadError if the detector is missing."""
    session = _session()
    h = c = np.zeros((1, 1, _STATE), np.float32)
    context = np.zeros(_CONTEXT_SAMPLES, np.float32)
    parts: list[F32] = []
    for start in range(0, len(samples_S), _BLOCK_FRAMES * FRAME_SAMPLES):
        block = samples_S[start : start + _BLOCK_FRAMES * FRAME_SAMPLES]
        frames = np.pad(block, (0, -len(block) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
        before = np.concatenate([context[None], frames[:-1, -_CONTEXT_SAMPLES:]])
        context = frames[-1, -_CONTEXT_SAMPLES:]
        probabilities, h, c = session.run(None, {"input": np.concatenate([before, frames], axis=1), "h": h, "c": c})
        parts.append(np.asarray(probabilities, np.float32))
    return np.concatenate(parts)


def speech_spans(probabilities: F32) -> list[SampleSpan]:
    """Where somebody speaks, in order. Short silences and short sounds are ignored."""
    spans: list[SampleSpan] = []
    start: int | None = None
    for frame, probability in enumerate([*probabilities.tolist(), 0.0]):
        if start is None and probability >= _BEGINS:
            start = frame
        elif start is not None and (probability < _ENDS or frame == len(probabilities)):
            spans.append(SampleSpan(start * FRAME_SAMPLES, frame * FRAME_SAMPLES))
            start = None
    return [span for span in _joined(spans) if span.stop - span.start >= _LEAST_SPEECH_S * SAMPLE_RATE]


def _joined(spans: list[SampleSpan]) -> list[SampleSpan]:
    joined: list[SampleSpan] = []
    for span in spans:
        if joined and span.start - joined[-1].stop < _LEAST_SILENCE_S * SAMPLE_RATE:
            joined[-1] = SampleSpan(joined[-1].start, span.stop)
        else:
            joined.append(span)
    return joined


@lru_cache(maxsize=1)
def _session() -> InferenceSession:
    from shoal.model.runtime_sessions import session_options, start_session  # few processes need ONNX Runtime

    return start_session(package_file(_MODEL), session_options(1))
