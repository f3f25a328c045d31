"""Inputs that mean something to the real models: speech, and the beginning and end of files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 512
_CONTEXT_SAMPLES = 64
"""Of the window before, which the speech detector wants in front of each (silero-vad's `OnnxWrapper`)."""

_FORMANTS_HZ = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
"""a, e, i, o, u of men. Source: Peterson and Barney, Control methods used in a study of the vowels (1952), table II."""
_BANDWIDTHS_HZ = (80, 90, 120)
_VOWEL_S = 0.16
_PITCH_HZ = 130.0

MAGIKA_HALF_BYTES = 1024
_MAGIKA_PADDING = 256
"""Stands for "no byte" (`padding_token` in the model's configuration)."""


def speech(*, silence_s: float = 0.5, num_vowels: int = 10) -> F32:
    """Silence, sung vowels one after the other, silence: samples in -1..1, in whole windows."""
    rng = np.random.default_rng(0)
    silence = np.zeros(round(silence_s * SAMPLE_RATE))
    vowels = [_vowel(_FORMANTS_HZ[index % len(_FORMANTS_HZ)]) for index in range(num_vowels)]
    signal = np.concatenate([silence, *vowels, silence])
    noisy = signal + rng.normal(0, 1e-4, len(signal))
    return noisy[: len(noisy) // WINDOW_SAMPLES * WINDOW_SAMPLES].astype(np.float32)


def _vowel(formants_hz: tuple[int, int, int]) -> npt.NDArray[Any]:
    """A falling tone's harmonics, each as loud as the mouth lets it through, with soft edges."""
    time_s = np.arange(round(_VOWEL_S * SAMPLE_RATE)) / SAMPLE_RATE
    pitch_hz = _PITCH_HZ * (1 - 0.15 * time_s / _VOWEL_S)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    harmonics = np.arange(1, int(SAMPLE_RATE / 2 / _PITCH_HZ))
    loudness = _response(harmonics * _PITCH_HZ, formants_hz) / harmonics
    signal = np.sin(phase[:, np.newaxis] * harmonics) @ loudness
    edges = np.minimum(1, np.minimum(time_s, _VOWEL_S - time_s) / 0.03)
    return 0.3 * signal / np.abs(signal).max() * edges


def _response(frequency_hz: npt.NDArray[Any], formants_hz: tuple[int, int, int]) -> npt.NDArray[Any]:
    """How much of each frequency three resonances let through."""
    response = np.ones_like(frequency_hz)
    for formant_hz, bandwidth_hz in zip(formants_hz, _BANDWIDTHS_HZ, strict=True):
        detuning = frequency_hz**2 - formant_hz**2
        response *= formant_hz**2 / np.sqrt(detuning**2 + (bandwidth_hz * frequency_hz) ** 2)
    return response


def speech_windows(signal: F32) -> F32:
    """(windows, 64 + 512): each with the end of the one before in front, as the speech detector takes them."""
    windows = signal.reshape(-1, WINDOW_SAMPLES)
    before = np.roll(windows[:, -_CONTEXT_SAMPLES:], 1, axis=0)
    before[0] = 0
    return np.concatenate([before, windows], axis=1)


def magika_bytes(contents: list[bytes]) -> npt.NDArray[np.int32]:
    """(contents, 2048): the first and the last 1024 bytes without blanks round them, filled up in the middle."""
    rows = np.full((len(contents), 2 * MAGIKA_HALF_BYTES), _MAGIKA_PADDING, dtype=np.int32)
    for row, content in zip(rows, contents, strict=True):
        first = np.frombuffer(content.lstrip()[:MAGIKA_HALF_BYTES], dtype=np.uint8)
        last = np.frombuffer(content.rstrip()[-MAGIKA_HALF_BYTES:], dtype=np.uint8)
        row[: len(first)] = first
        row[len(row) - len(last) :] = last
    return rows
