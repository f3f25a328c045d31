"""The time of each word: tokens are aligned with the sound by the attention of heads that follow it.

Source: openai/whisper, whisper/timing.py, for which rows count, the median filter and the treatment of pauses; Sakoe
and Chiba, Dynamic programming algorithm optimization for spoken word recognition, 1978, for the path.

Shapes: H heads, R rows, P positions of 20 ms, N tokens of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from string import punctuation

import numpy as np

from shoal.arrays import F32
from shoal.speech.transcript import SpeechSegment, SpokenWord
from shoal.speech.vocabulary import POSITION_S

_FILTER_POSITIONS = 7
"""Width of the median filter."""
_LONGEST_MEDIAN_S = 0.7
_SURPLUS_S = 0.5
"""If a word extends beyond its segment by more than this, the segment's times are used."""
_LONGEST_WORD = 2.0
"""Maximum length of words at the ends of sentences, as a multiple of the median word: pauses count as part of them."""
_SENTENCE_ENDS = frozenset(".。!\uff01?\uff1f")
_OPENING = frozenset("\"'“¿([{-")
_CLOSING = frozenset("\"'.。,\uff0c!\uff01?\uff1f:\uff1a”)]}、")
_WITHOUT_SPACES = frozenset(("zh", "ja", "th", "lo", "my", "yue"))
"""Languages without spaces between words, in which each character counts as one."""
_NO_CHARACTER = "\ufffd"


def spoken_words(
    attention_HRP: F32,
    token_ids: Sequence[int],
    probabilities: Sequence[float],
    decode: Callable[[Sequence[int]], str],
    *,
    num_before: int,
    language: str,
) -> list[SpokenWord]:
    """The words of a text with their times, counted from the beginning of its window.

    Args:
        attention_HRP: softmaxes over the positions that are sound, in rows for the prompt, the text and its end.
        token_ids: of the text, [N].
        probabilities: of these tokens.
        decode: turns tokens into text.
        num_before: rows of the prompt before the one that predicts the first token.
        language: that is spoken, by its code.
    """
    groups = word_groups(token_ids, decode, by_character=language in _WITHOUT_SPACES)
    if not groups:
        return []
    starts_s = token_starts(attention_HRP, num_before) * POSITION_S
    words: list[SpokenWord] = []
    first = 0
    for group in groups:
        last = first + len(group)
        word = SpokenWord(
            text=decode(group),
            start_s=float(starts_s[first]),
            end_s=float(starts_s[last]),
            probability=float(np.mean(probabilities[first:last])),
            num_tokens=len(group),
        )
        words.append(word)
        first = last
    return with_punctuation(without_pauses(words))


def shared_out(
    words: Sequence[SpokenWord],
    segments: Sequence[SpeechSegment],
    is_word: Callable[[int], bool],
    *,
    origin_s: float,
    last_end_s: float,
) -> list[SpeechSegment]:
    """The segments of a window with their words.

    Args:
        words: of all segments, with times from the window's beginning.
        segments: in order.
        is_word: whether a token is text.
        origin_s: beginning of the window.
        last_end_s: end of the previous segment.
    """
    usual_s = _median_s(words)
    left = [replace(word, start_s=origin_s + word.start_s, end_s=origin_s + word.end_s) for word in words]
    told: list[SpeechSegment] = []
    for segment in segments:
        num_missing = sum(map(is_word, segment.token_ids))
        own: list[SpokenWord] = []
        while left and num_missing > 0:
            own.append(left.pop(0))
            num_missing -= own[-1].num_tokens
        own = _within(own, segment, usual_s, last_end_s) if own else own
        told.append(replace(segment, words=tuple(own)))
        last_end_s = own[-1].end_s if own else segment.end_s
    return told


def _within(own: list[SpokenWord], segment: SpeechSegment, usual_s: float, last_end_s: float) -> list[SpokenWord]:
    """Limit words at both ends of a segment to its times, and shorten them if they contain a pause."""
    longest_s = _LONGEST_WORD * usual_s
    first = own[0]
    is_long = first.end_s - first.start_s > longest_s
    are_long = len(own) > 1 and own[1].end_s - first.start_s > 2 * longest_s
    if first.end_s - last_end_s > 2 * longest_s and (is_long or are_long):
        if len(own) > 1 and own[1].end_s - own[1].start_s > longest_s:
            boundary_s = max(own[1].end_s / 2, own[1].end_s - longest_s)
            first, own[1] = replace(first, end_s=boundary_s), replace(own[1], start_s=boundary_s)
        first = replace(first, start_s=max(0.0, first.end_s - longest_s))
    if first.start_s + _SURPLUS_S < segment.start_s < first.end_s:
        first = replace(first, start_s=max(0.0, min(first.end_s - usual_s, segment.start_s)))
    own[0] = first
    last = own[-1]
    if last.start_s < segment.end_s < last.end_s - _SURPLUS_S:
        own[-1] = replace(last, end_s=max(last.start_s + usual_s, segment.end_s))
    return own


def _median_s(words: Sequence[SpokenWord]) -> float:
    """Median length of a word; 0 if no word has a length."""
    lengths = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    return min(_LONGEST_MEDIAN_S, float(np.median(lengths))) if lengths else 0.0


def token_starts(attention_HRP: F32, num_before: int) -> F32:
    """The position at which each token begins, and that of the text's end, [N + 1]."""
    deviation = attention_HRP.std(axis=1, keepdims=True)
    scores_HRP = (attention_HRP - attention_HRP.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-12)
    scores_NP = _median(scores_HRP).mean(axis=0)[num_before:-1]
    rows, positions = cheapest_path(-scores_NP)
    begins = np.diff(rows, prepend=-1) > 0
    return positions[begins].astype(np.float32)


def cheapest_path(costs_NP: F32) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest path from the first cell to the last, by steps to the right, down or both.

    Cells of a diagonal depend only on the two diagonals before it, so a diagonal is computed at once.
    """
    num_rows, num_columns = costs_NP.shape
    total = np.full((num_rows + 1, num_columns + 1), np.inf)
    total[0, 0] = 0.0
    came = np.zeros((num_rows, num_columns), np.int8)
    for diagonal in range(num_rows + num_columns - 1):
        i = np.arange(max(0, diagonal - num_columns + 1), min(diagonal, num_rows - 1) + 1)
        j = diagonal - i
        options = np.stack([total[i, j], total[i, j + 1], total[i + 1, j]])  # both, down, right
        came[i, j] = options.argmin(axis=0)
        total[i + 1, j + 1] = costs_NP[i, j] + options.min(axis=0)
    i, j = num_rows - 1, num_columns - 1
    path = [(i, j)]
    while i or j:
        step = came[i, j] if i and j else (1 if i else 2)
        i, j = i - (step != 2), j - (step != 1)
        path.append((i, j))
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def word_groups(
    token_ids: Sequence[int], decode: Callable[[Sequence[int]], str], *, by_character: bool
) -> list[list[int]]:
    """The tokens of each word, in order: no token is left out, and no word ends within a character."""
    pieces: list[list[int]] = []
    open_piece: list[int] = []
    for token in token_ids:
        open_piece.append(token)
        if _NO_CHARACTER not in decode(open_piece):
            pieces.append(open_piece)
            open_piece = []
    if open_piece:
        pieces.append(open_piece)
    words: list[list[int]] = []
    for piece in pieces:
        text = decode(piece)
        is_mark = text.strip() in punctuation
        if words and not by_character and not text.startswith(" ") and not is_mark:
            words[-1].extend(piece)
        else:
            words.append(piece)
    return words


def without_pauses(words: Sequence[SpokenWord]) -> list[SpokenWord]:
    """Limit words on either side of a sentence's end to twice the median word."""
    longest_s = _LONGEST_WORD * _median_s(words)
    kept = list(words)
    for place in range(1, len(kept)):
        word = kept[place]
        if word.end_s - word.start_s <= longest_s:
            continue
        if word.text.strip() in _SENTENCE_ENDS:
            kept[place] = replace(word, end_s=word.start_s + longest_s)
        elif kept[place - 1].text.strip() in _SENTENCE_ENDS:
            kept[place] = replace(word, start_s=word.end_s - longest_s)
    return kept


def with_punctuation(words: Sequence[SpokenWord]) -> list[SpokenWord]:
    """Join punctuation to the word before or after it, whose times stay."""
    joined: list[SpokenWord] = []
    for word in words:
        before = joined[-1] if joined else None
        if before is not None and before.text.startswith(" ") and before.text.strip() in _OPENING:
            joined[-1] = replace(word, text=before.text + word.text, num_tokens=before.num_tokens + word.num_tokens)
        elif before is not None and word.text in _CLOSING and not before.text.endswith(" "):
            joined[-1] = replace(before, text=before.text + word.text, num_tokens=before.num_tokens + word.num_tokens)
        else:
            joined.append(word)
    return joined


def _median(scores_HRP: F32) -> F32:
    """Median over neighboring positions, mirrored at the ends."""
    half = _FILTER_POSITIONS // 2
    if scores_HRP.shape[-1] <= half:
        return scores_HRP
    padded = np.pad(scores_HRP, ((0, 0), (0, 0), (half, half)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FILTER_POSITIONS, axis=-1)
    return np.sort(windows, axis=-1)[..., half]
