"""Sound files of several forms, broken ones, and ones that are too long."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.errors import InvalidRequest
from shoal.speech.audio import decode_audio
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
    with pytest.raises(InvalidRequest, match="no sound"):
        decode_audio(file.getvalue(), max_s=1.0)
