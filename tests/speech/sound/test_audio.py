"""Sound files of several forms, broken ones, and ones that are too long."""

from __future__ import annotations

import io
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import InvalidRequest
from shoal.speech.sound.audio import decode_audio
from tests.speech.sounds import sound_file, tone

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("form", "codec", "rate", "tolerance"),
    [
        ("wav", "pcm_s16le", 16_000, 1e-4),
        ("flac", "flac", 16_000, 1e-4),
        ("wav", "pcm_s16le", 44_100, 0.01),
        ("mp4", "aac", 44_100, 0.1),
        ("ogg", "libopus", 48_000, 0.1),
    ],
)
def test_a_tone_comes_back_at_16_khz(form: str, codec: str, rate: int, tolerance: float) -> None:
    samples = decode_audio(sound_file(tone(1.0, rate), form=form, codec=codec, rate=rate), max_s=2.0)
    assert samples.dtype == np.float32
    assert abs(samples.size - 16_000) <= 2_400, "codecs add silence at the ends"
    middle = samples[6_000:10_000]
    power = np.abs(np.fft.rfft(middle))
    assert np.argmax(power) == 110, "440 Hz in a quarter of a second"
    assert abs(np.sqrt(np.mean(middle**2)) - 0.5 / np.sqrt(2)) <= tolerance


@pytest.mark.parametrize("data", [b"", b"hello" * 100, b"RIFF\xff\xff\xff\xffWAVEfmt ", sound_file(tone(0.5))[:60]])
def test_what_is_no_sound_is_refused_in_a_line(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_audio(data, max_s=10.0)
    assert refused.value.param == "file"
    assert "\n" not in str(refused.value)


def test_a_long_sound_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="longer than 1 s"):
        decode_audio(sound_file(tone(3.0)), max_s=1.0)


def test_a_picture_has_no_sound() -> None:
    from io import BytesIO

    image = pytest.importorskip("PIL.Image")
    file = BytesIO()
    image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(InvalidRequest, match="not a sound file"):
        decode_audio(file.getvalue(), max_s=1.0)


def wav(data: bytes, *, rate: int = 16_000, channels: int = 1, bits: int = 16, claimed: int | None = None) -> bytes:
    """A file whose header says whatever is wanted."""
    size = (len(data) if claimed is None else claimed) & 0xFFFFFFFF
    frame = channels * bits // 8
    header = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits)
    return (
        b"RIFF"
        + struct.pack("<I", size + 36 & 0xFFFFFFFF)
        + b"WAVEfmt "
        + header
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def film(*, with_sound: bool) -> bytes:
    av = pytest.importorskip("av")
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16_000, layout="mono") if with_sound else None
        for _ in range(5):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(pictures.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(tone(0.064)[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux([*sound.encode(frame), *sound.encode(None)])
    return target.getvalue()


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{file}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{file}'\n"
SESSION = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"


@pytest.mark.parametrize("text", [PLAYLIST, CONCAT, SESSION], ids=["playlist", "concat", "session"])
def test_no_file_has_another_file_or_a_socket_opened(text: str, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(sound_file(tone(0.5)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        data = text.format(file=tmp_path / "secret.wav", port=free.getsockname()[1]).encode()
        with pytest.raises(InvalidRequest, match="not a sound file") as refused:
            decode_audio(data, max_s=10.0)
    assert "in use" not in str(refused.value), "it was not even tried to listen"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (wav(b""), "contains no sound"),
        (wav(bytes(3200), rate=1), "1 samples a second"),
        (wav(bytes(3200), rate=0), "not a sound file"),
        (wav(bytes(3200), rate=0x7FFFFFFF), "samples a second"),
        (wav(bytes(1 << 20), channels=65_535), "not a sound file"),
        (wav(bytes(1 << 20), channels=0), "not a sound file"),
        (film(with_sound=False), "contains no sound"),
        (wav(bytes(3 * 3600 * 1000), rate=1000, bits=8), "longer than 60 s"),
    ],
    ids=["0 s", "1 Hz", "0 Hz", "2 GHz", "many channels", "no channels", "silent film", "3 h"],
)
def test_what_a_header_may_claim(data: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        decode_audio(data, max_s=60.0)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_odd_files_that_are_sound() -> None:
    claims_4_gb = wav(bytes(3200), claimed=0xFFFFFFF0)
    assert decode_audio(claims_4_gb, max_s=60.0).size == 1600
    eight = np.repeat((tone(0.5, 192_000) * 30_000).astype(np.int16), 8).tobytes()
    heard = decode_audio(wav(eight, rate=192_000, channels=8), max_s=60.0)
    assert abs(heard.size - 8_000) <= 2
    assert np.argmax(np.abs(np.fft.rfft(heard[2_000:6_000]))) == 110
    assert decode_audio(film(with_sound=True), max_s=60.0).size > 900
