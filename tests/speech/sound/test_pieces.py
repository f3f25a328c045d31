"""Long sound is cut in silences."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.speech.sound.pieces import join_spans, pieces_of
from shoal.speech.sound.voice import SampleSpan, speech_spans, voice_available, voice_probabilities

CLIP = 16_000 * 30


@given(
    st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, CLIP - 8_000)), min_size=1, max_size=20),
)
def test_pieces_hold_all_speech_in_order(gaps: list[tuple[int, int]]) -> None:
    spans: list[SampleSpan] = []
    place = 0
    for silence, speech in gaps:
        spans.append(SampleSpan(place + silence, place + silence + speech))
        place = spans[-1].stop
    pieces = join_spans(spans, CLIP, place + 100)
    assert all(0 < piece.stop - piece.start <= CLIP for piece in pieces)
    assert all(one.stop <= other.start for one, other in pairwise(pieces))
    for span in spans:
        assert any(piece.start <= span.start and span.stop <= piece.stop for piece in pieces)


def test_short_sounds_and_short_silences_are_passed_over() -> None:
    frames = np.zeros(200, np.float32)
    frames[10:60] = 0.9
    frames[40:44] = 0.1
    frames[100:103] = 0.9
    assert speech_spans(frames) == [SampleSpan(10 * 512, 60 * 512)]
    frames[150:] = 0.9
    assert speech_spans(frames)[-1] == SampleSpan(150 * 512, 200 * 512), "speech at the end"


def test_a_clip_is_not_cut() -> None:
    assert pieces_of(np.zeros(CLIP, np.float32), CLIP) == [SampleSpan(0, CLIP)]


@pytest.mark.skipif(not voice_available(), reason="the detector of voices is not installed")
def test_silence_has_no_pieces_and_noise_no_voice() -> None:
    assert pieces_of(np.zeros(2 * CLIP, np.float32), CLIP) == []
    noise = 0.01 * np.random.default_rng(0).standard_normal(16_000 * 4).astype(np.float32)
    assert voice_probabilities(noise).max() < 0.5
