"""Reads sound files of any format as samples: decoded, mixed down and resampled by FFmpeg's libraries through PyAV."""

from __future__ import annotations

import io
from itertools import chain

import numpy as np

from shoal.arrays import F32
from shoal.errors import InvalidRequest, MissingExtra
from shoal.speech.sound.features import SAMPLE_RATE

FORMATS = "flac, mp3, mp4, mpeg, mpga, m4a, ogg, wav, webm and what else FFmpeg reads"
_REASON_CHARACTERS = 120
_CONTAINERS = (
    "3g2,3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,m4a,matroska,mj2,mov,mp3,mp4,mpeg,mpegts,ogg,"
    "rm,tta,w64,wav,webm,wv"
)
"""Accepted formats: files that contain everything they need. Playlists and session descriptions would make FFmpeg open
other files or sockets. Source: ffmpeg-formats, Demuxers."""
_LEAST_RATE, _MOST_RATE = 1_000, 768_000
"""Accepted sample rates. A file may claim any rate: at 1 Hz a kilobyte would be a quarter of an hour."""
_MOST_CHANNELS = 64
_MOST_FRAME_SAMPLES = 1 << 20
"""Most samples of all channels of a frame, which is resampled at once."""


def decode_audio(data: bytes, *, max_s: float, param: str = "file") -> F32:
    """The samples of a sound file, [S] at 16 kHz, one channel, between -1 and 1.

    Args:
        data: the file.
        max_s: the longest sound that is accepted. Nothing beyond it is decoded.
        param: name of the file in errors.

    Raises:
        InvalidRequest: the file is empty, damaged, not a sound, or too long.
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
            f"`{param}` is not a sound file that can be read ({FORMATS}): {reason}", param=param
        ) from None
    if not samples.size:
        raise InvalidRequest(f"`{param}` contains no sound", param=param)
    return samples


def _decode(data: bytes, max_s: float, param: str) -> F32:
    """Decode frame by frame, so that a small file of many hours is refused before it is in memory."""
    import av

    pieces: list[F32] = []
    num_samples = 0
    allowed = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
    with av.open(io.BytesIO(data), mode="r", metadata_errors="ignore", options=allowed) as container:
        if not container.streams.audio:
            raise InvalidRequest(f"`{param}` contains no sound", param=param)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        for frame in chain(container.decode(container.streams.audio[0]), (None,)):  # the last one flushes
            if frame is not None:
                _check_frame(frame.sample_rate, frame.layout.nb_channels, frame.samples, param)
            for piece in resampler.resample(frame):
                values = piece.to_ndarray().reshape(-1).astype(np.float32, copy=False)
                pieces.append(values)
                num_samples += len(values)
            if num_samples > max_s * SAMPLE_RATE:
                raise InvalidRequest(
                    f"`{param}` is longer than {max_s:g} s, the longest that is accepted: cut it, or raise --max-audio",
                    param=param,
                )
    return np.concatenate(pieces) if pieces else np.empty(0, np.float32)


def _check_frame(rate: int, num_channels: int, num_samples: int, param: str) -> None:
    """Raises InvalidRequest for values that no recording has, but that a few bytes can claim."""
    if not _LEAST_RATE <= rate <= _MOST_RATE:
        raise InvalidRequest(
            f"`{param}` has {rate} samples a second, but only {_LEAST_RATE} to {_MOST_RATE} are accepted", param=param
        )
    if num_channels > _MOST_CHANNELS or num_samples * num_channels > _MOST_FRAME_SAMPLES:
        raise InvalidRequest(
            f"`{param}` has {num_channels} channels with {num_samples} samples in a frame, more than are accepted",
            param=param,
        )
