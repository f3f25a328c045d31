"""Log-mel features against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest

from shoal.speech.sound.features import SAMPLE_RATE, log_mel


@pytest.mark.parametrize("num_mels", [80, 128])
def test_features_are_those_of_transformers(num_mels: int) -> None:
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=num_mels)
    rng = np.random.default_rng(0)
    times = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    sound = (0.3 * np.sin(2 * np.pi * 440 * times) + 0.05 * rng.standard_normal(times.size)).astype(np.float32)
    expected = extractor(sound, sampling_rate=SAMPLE_RATE, return_tensors="np")["input_features"][0]
    # fp32 sums in another order, under a logarithm
    np.testing.assert_allclose(log_mel(sound, num_mels, 3000).T, expected, rtol=0, atol=1e-3)


def test_silence_and_what_is_beyond_a_clip() -> None:
    silence = log_mel(np.zeros(100, np.float32), 80, 96)
    assert silence.shape == (96, 80)
    assert np.ptp(silence) == 0
    sound = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    np.testing.assert_array_equal(log_mel(sound, 80, 96), log_mel(sound[: 96 * 160], 80, 96))
