"""Tokens of a window read as segments, and whether they are believed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.speech.window import Decoded, Thresholds, WindowEnd, read_window
from tests.speech.vocabularies import FIRST, VOCABULARY


def text_of(tokens: Sequence[int]) -> str:
    return "".join(f" w{token}" for token in tokens)


def decoded(*tokens: int, text: str = "some words", logprob: float = -0.1, no_speech: float = 0.0) -> Decoded:
    return Decoded(token_ids=tokens, text=text, avg_logprob=logprob, temperature=0.0, no_speech_prob=no_speech)


def window(one: Decoded, num_frames: int = 100) -> WindowEnd:
    return read_window(one, VOCABULARY, text_of, seek_frames=300, num_frames=num_frames, thresholds=Thresholds())


def test_one_segment_ends_where_it_says() -> None:
    found = window(decoded(FIRST, 1, 2, FIRST + 20))
    (segment,) = found.segments
    assert (segment.start_s, round(segment.end_s, 2), segment.text) == (3.0, 3.4, " w1 w2")
    assert segment.token_ids == (FIRST, 1, 2, FIRST + 20)
    assert found.num_frames == 100, "nothing is said behind a time that stands alone"


def test_a_segment_without_an_end_reaches_to_that_of_the_window() -> None:
    found = window(decoded(FIRST + 2, 1, 2))
    (segment,) = found.segments
    assert (round(segment.start_s, 2), segment.end_s) == (3.04, 4.0)


def test_an_unfinished_segment_is_left_to_the_next_window() -> None:
    found = window(decoded(FIRST, 1, FIRST + 10, FIRST + 10, 2))
    assert [segment.text for segment in found.segments] == [" w1"]
    assert found.num_frames == 20


def test_finished_segments_are_all_told() -> None:
    found = window(decoded(FIRST, 1, FIRST + 10, FIRST + 12, 2, FIRST + 30))
    assert [segment.text for segment in found.segments] == [" w1", " w2"]
    assert [round(segment.start_s, 2) for segment in found.segments] == [3.0, 3.24]
    assert found.num_frames == 100


@pytest.mark.parametrize("tokens", [(), (FIRST,), (FIRST, FIRST), (FIRST + 5, FIRST + 5, FIRST + 5)])
def test_a_window_without_words_moves_on(tokens: tuple[int, ...]) -> None:
    found = window(decoded(*tokens))
    assert found.segments == ()
    assert found.num_frames > 0


def test_silence_is_left_out() -> None:
    silent = decoded(FIRST, 1, FIRST + 5, logprob=-1.5, no_speech=0.9)
    assert Thresholds().believe(silent)
    assert window(silent) == WindowEnd(segments=(), num_frames=100)


def test_what_is_decoded_again() -> None:
    assert Thresholds().believe(decoded(1))
    assert not Thresholds().believe(decoded(1, logprob=-1.1))
    assert not Thresholds().believe(decoded(1, text="again and " * 50))
    assert Thresholds().believe(decoded(1, logprob=-1.1, no_speech=0.7))
