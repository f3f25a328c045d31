"""Sound files of any kind to samples: decoded, mixed down and resampled by FFmpeg's libraries through PyAV."""

from __future__ import annotations

import io
from itertools import chain

import numpy as np

from shoal.arrays import F32
from shoal.errors import InvalidRequest, MissingExtra
from shoal.speech.features import SAMPLE_RATE

FORMATS = "flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav, webm and what else FFmpeg reads"
_REASON_CHARACTERS = 120


def decode_audio(data: bytes, *, max_s: float, param: str = "file") -> F32:
    """The samples of a sound file, [S] at 16 kHz, one channel, between -1 and 1.

    Args:
        data: the file.
        max_s: the longest sound that is taken. Nothing beyond it is decoded.
        param: what the file is called in errors.

    Raises:
        InvalidRequest: it is empty, damaged, no sound, or too long.
        MissingExtra: PyAV is not installed.
    """
    try:
        from av.error import FFmpegError
    except ModuleNotFoundError:
        raise MissingExtra("reading sound files needs PyAV", "speech") from None
    if not data:
        raise InvalidRequest(f"`{param}` is empty: send a sound file ({FORMATS})", param=param)
    try:
        samples = _decode(data, max_s, param)
    except (FFmpegError, ValueError, EOFError, MemoryError) as error:
        reason = " ".join(str(error).split())[:_REASON_CHARACTERS]
        raise InvalidRequest(
            f"`{param}` is no sound file that can be read ({FORMATS}): {reason}", param=param
        ) from None
    if not samples.size:
        raise InvalidRequest(f"`{param}` has no sound in it", param=param)
    return samples


def _decode(data: bytes, max_s: float, param: str) -> F32:
    """Frame by frame, so that a small file of many hours is refused before it is in memory."""
    import av

    pieces: list[F32] = []
    num_samples = 0
    with av.open(io.BytesIO(data), mode="r", metadata_errors="ignore") as container:
        if not container.streams.audio:
            raise InvalidRequest(f"`{param}` has no sound in it", param=param)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in chain(container.decode(container.streams.audio[0]), (None,)):  # the last one flushes
            for piece in resampler.resample(frame):
                values = piece.to_ndarray().reshape(-1).astype(np.float32, copy=False)
                pieces.append(values)
                num_samples += len(values)
            if num_samples > max_s * SAMPLE_RATE:
                raise InvalidRequest(
                    f"`{param}` is longer than {max_s:g} s, the most that is taken: cut it, or raise --max-audio",
                    param=param,
                )
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)
