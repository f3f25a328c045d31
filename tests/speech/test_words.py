"""Times of words: the path, the words of a text, and what is done with pauses and marks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from shoal.speech.transcript import SpeechSegment, SpokenWord
from shoal.speech.words import (
    cheapest_path,
    shared_out,
    spoken_words,
    token_starts,
    with_punctuation,
    without_pauses,
    word_groups,
)

TOKENS = {1: " fish", 2: "es", 3: " swim", 4: ",", 5: ".", 6: " (", 7: "\ufffd", 8: ")"}


def text_of(tokens: list[int]) -> str:
    """Token 7 is a third of a character."""
    return "".join(TOKENS[token] for token in tokens).replace("\ufffd" * 3, "é")


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.standard_normal((int(rng.integers(1, 6)), int(rng.integers(1, 8)))).astype(np.float32)

    @cache
    def least(i: int, j: int) -> float:
        before = [least(*cell) for cell in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(cell) >= 0]
        return float(costs[i, j]) + (min(before) if before else 0.0)

    rows, columns = cheapest_path(costs)
    assert (rows[0], columns[0]) == (0, 0)
    assert (rows[-1], columns[-1]) == (costs.shape[0] - 1, costs.shape[1] - 1)
    steps = set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert costs[rows, columns].sum() == pytest.approx(least(costs.shape[0] - 1, costs.shape[1] - 1), abs=1e-4)


def looking_at(*positions: int, width: int = 60) -> np.ndarray:
    """Two heads whose rows look at these positions and the nine behind them."""
    attention = np.full((2, len(positions), width), 0.01, np.float32)
    for row, position in enumerate(positions):
        attention[:, row, position : position + 10] = 1.0
    return attention / attention.sum(-1, keepdims=True)


def test_tokens_begin_where_rows_begin_to_look() -> None:
    """One row of a prompt before the one that says the first token, and one behind the text."""
    attention = looking_at(0, 0, 10, 20, 40, 50)
    np.testing.assert_allclose(token_starts(attention, 1), [0, 10, 20, 40], atol=3)


def test_words_of_a_text() -> None:
    groups = word_groups([1, 2, 3, 4, 7, 7, 7, 5], text_of, by_character=False)
    assert groups == [[1, 2], [3], [4, 7, 7, 7], [5]]
    assert word_groups([1, 2, 7, 7, 7], text_of, by_character=True) == [[1], [2], [7, 7, 7]]
    assert word_groups([1, 7], text_of, by_character=False) == [[1, 7]], "what is left of a character belongs somewhere"
    assert word_groups([], text_of, by_character=False) == []


def test_words_have_times_and_likelihoods() -> None:
    attention = looking_at(0, 0, 10, 20, 30, 50)
    words = spoken_words(attention, [1, 2, 3], [0.5, 1.0, 0.25], text_of, num_before=1, language="en")
    assert [word.text for word in words] == [" fishes", " swim"]
    assert [word.probability for word in words] == [0.75, 0.25]
    assert words[0].start_s < words[0].end_s == words[1].start_s < words[1].end_s
    assert words[1].end_s == pytest.approx(0.6, abs=0.08)
    assert spoken_words(attention, [], [], text_of, num_before=1, language="en") == []


def word(text: str, start_s: float, end_s: float, num_tokens: int = 1) -> SpokenWord:
    return SpokenWord(text=text, start_s=start_s, end_s=end_s, probability=1.0, num_tokens=num_tokens)


def test_marks_belong_to_words() -> None:
    words = [word(" (", 0, 1), word("fish", 1, 2), word(")", 2, 3), word(",", 3, 4), word(" swim", 4, 5)]
    joined = with_punctuation(words)
    assert [(one.text, one.start_s, one.end_s) for one in joined] == [(" (fish),", 1, 2), (" swim", 4, 5)]
    assert [one.num_tokens for one in joined] == [4, 1]


def test_a_pause_is_no_part_of_a_word() -> None:
    words = [word(" a", 0, 0.4), word(" b", 0.4, 0.8), word(".", 0.8, 5), word(" c", 5, 9), word(" d", 9, 9.4)]
    kept = without_pauses(words)
    longest = 2 * 0.4
    assert (kept[2].start_s, kept[2].end_s) == (0.8, pytest.approx(0.8 + longest))
    assert (kept[3].start_s, kept[3].end_s) == (pytest.approx(9 - longest), 9)


def segment(start_s: float, end_s: float, num_tokens: int) -> SpeechSegment:
    return SpeechSegment(
        start_s=start_s,
        end_s=end_s,
        text="",
        token_ids=(30, *range(num_tokens), 31),
        temperature=0.0,
        avg_logprob=0.0,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        seek_frames=1000,
    )


def test_words_go_to_their_segments_and_stay_within() -> None:
    words = [word(" a", 0, 4.2, 2), word(" b", 4.2, 4.4), word(" c", 4.4, 4.6), word(" d", 4.6, 8)]
    first, second = shared_out(
        words,
        [segment(13.9, 14.4, 3), segment(14.4, 15.0, 2)],
        lambda token: token < 20,
        origin_s=10.0,
        last_end_s=10.0,
    )
    assert [one.text for one in first.words] == [" a", " b"]
    assert [one.text for one in second.words] == [" c", " d"]
    assert first.words[0].start_s >= 13.5, "a pause before the first word"
    assert second.words[1].end_s == pytest.approx(15.3, abs=0.31), "and behind the last"
