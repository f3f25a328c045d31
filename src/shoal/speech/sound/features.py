"""Log-mel spectrograms as input of Whisper's encoder.

Shapes: S samples, F frames, B frequency bins, M mels.
Source: Whisper, arXiv 2212.04356, section 2.2; Slaney, Auditory Toolbox, 1998, for the scale and its normalization.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from shoal.arrays import F32

SAMPLE_RATE = 16_000
"""Samples a second."""
HOP_SAMPLES = 160
"""Samples from one frame to the next: 10 ms."""
_WINDOW_SAMPLES = 400
_LINEAR_HZ = 200.0 / 3
"""Hertz of a mel, up to 1 kHz."""
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27.0
"""Natural logarithm of the ratio of neighboring mels' frequencies, above 1 kHz."""
_FRAMES_AT_ONCE = 200
"""Frames whose spectra stay in the cache: 7 ms for a clip of 30 s, while all frames at once take 10 ms."""
_FRAMES_OF_PRODUCT = 8
"""Frames of one product: for larger ones NumPy's BLAS wakes threads of its own, which spin for 10 ms afterwards."""
_FLOOR = 1e-10
_DYNAMIC_RANGE = 8.0
"""Powers of ten below the loudest value; everything quieter is raised to that level."""


def log_mel(samples_S: F32, num_mels: int, num_frames: int) -> F32:
    """The spectrogram [F, M] of one clip.

    Args:
        samples_S: at 16 kHz, between -1 and 1; they are padded with silence or truncated to `num_frames`.
        num_mels: of a frame.
        num_frames: of 10 ms.
    """
    clip = np.zeros(num_frames * HOP_SAMPLES, np.float32)
    clip[: len(samples_S)] = samples_S[: len(clip)]
    padded = np.pad(clip, _WINDOW_SAMPLES // 2, mode="reflect")
    frames_FS = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::HOP_SAMPLES][:num_frames]
    log_FM = np.empty((num_frames, num_mels), np.float32)
    for start in range(0, num_frames, _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        log_FM[part] = _mel_power(frames_FS[part], mel_filters(num_mels))
    np.log10(np.maximum(log_FM, _FLOOR, out=log_FM), out=log_FM)
    np.maximum(log_FM, log_FM.max() - _DYNAMIC_RANGE, out=log_FM)
    log_FM += 4.0
    log_FM /= 4.0
    return log_FM


def _mel_power(frames_FS: F32, filters_BM: F32) -> F32:
    """The mel power of some frames, [F, M]."""
    spectrum_FB = np.fft.rfft(frames_FS * _window())
    power_FB = (spectrum_FB.real**2 + spectrum_FB.imag**2).astype(np.float32, copy=False)
    few = math.gcd(len(power_FB), _FRAMES_OF_PRODUCT)
    return (power_FB.reshape(-1, few, power_FB.shape[1]) @ filters_BM).reshape(len(power_FB), -1)


@lru_cache(maxsize=4)
def mel_filters(num_mels: int) -> F32:
    """Triangular filters over the frequency bins, each with area 1, [B, M]."""
    top_mel = _to_mels(SAMPLE_RATE / 2)
    corners_hz = _to_hz(np.linspace(0.0, top_mel, num_mels + 2))
    bins_hz = np.fft.rfftfreq(_WINDOW_SAMPLES, 1.0 / SAMPLE_RATE)[:, None]
    rise = (bins_hz - corners_hz[:-2]) / np.diff(corners_hz)[:-1]
    fall = (corners_hz[2:] - bins_hz) / np.diff(corners_hz)[1:]
    triangles = np.maximum(0.0, np.minimum(rise, fall))
    return (triangles * 2.0 / (corners_hz[2:] - corners_hz[:-2])).astype(np.float32)


@lru_cache(maxsize=1)
def _window() -> F32:
    """A periodic Hann window."""
    return np.hanning(_WINDOW_SAMPLES + 1)[:-1].astype(np.float32)


def _to_mels(hz: float) -> float:
    if hz < _BREAK_HZ:
        return hz / _LINEAR_HZ
    return float(_BREAK_HZ / _LINEAR_HZ + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _to_hz(mels: np.ndarray) -> np.ndarray:
    break_mels = _BREAK_HZ / _LINEAR_HZ
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mels - break_mels))
    return np.where(mels < break_mels, mels * _LINEAR_HZ, above)
