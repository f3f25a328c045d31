"""Files of sound made for tests: tones in any of FFmpeg's forms."""

from __future__ import annotations

import io

import numpy as np
import pytest

from shoal.arrays import F32


def tone(seconds: float, rate: int = 16_000) -> F32:
    """Of 440 Hz."""
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound_file(samples_S: F32, *, form: str = "wav", codec: str = "pcm_s16le", rate: int = 16_000) -> bytes:
    """Samples of one channel as a file."""
    av = pytest.importorskip("av")
    target = io.BytesIO()
    with av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples_S[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 0)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return target.getvalue()
