"""Which token may come next in a transcript: Whisper's rules for timestamps, and tokens that are never drawn.

Timestamps come in pairs, the end of a segment and the beginning of the next, and never decrease. The rule that a
timestamp is drawn if all timestamps together are more likely than any word is applied where the probabilities are
(`Sampling.first_timestamp`).
Source: openai/whisper, whisper/decoding.py: ApplyTimestampRules, SuppressBlank, SuppressTokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from shoal.speech.vocabulary import SpeechVocabulary

_MAX_MASKS = 256
"""Masks that a guide keeps, 6 kB each."""


class WordGuide:
    """Allows only words and parts of words, to find how likely given ones are among those. Implements `TokenGuide`."""

    def __init__(self, vocabulary: SpeechVocabulary) -> None:
        """`vocabulary`: of the model."""
        is_word = np.array([vocabulary.is_word(token) for token in range(vocabulary.num_tokens)])
        self._allowed = np.packbits(is_word, bitorder="little").tobytes()

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        """See `TokenGuide.allowed`."""
        return self._allowed


class _Times(NamedTuple):
    """What the rules need to know about an output."""

    is_first: bool = False
    ends_in_time: bool = False
    has_pair: bool = False
    """Whether it ends with two timestamps, or consists of a single one."""
    latest: int | None = None
    """The latest timestamp."""


class TranscriptGuide:
    """Keeps outputs within the rules. Implements `TokenGuide`. Masks are cached: between two timestamps they are equal
    for all outputs."""

    def __init__(self, vocabulary: SpeechVocabulary, *, has_timestamps: bool, max_first_timestamp: int = 50) -> None:
        """
        Args:
            vocabulary: of the model.
            has_timestamps: whether timestamps are drawn at all.
            max_first_timestamp: the latest timestamp with which a transcript may begin, in steps of 20 ms. Source: the
                same file, `max_initial_timestamp`: 1 s.
        """
        self._vocabulary, self._has_timestamps = vocabulary, has_timestamps
        self._max_first = max_first_timestamp
        allowed = np.ones(vocabulary.num_tokens, np.bool_)
        allowed[[token for token in vocabulary.suppressed if token < vocabulary.num_tokens]] = False
        if not has_timestamps:
            allowed[vocabulary.first_timestamp :] = False
        self._allowed = allowed
        self._mask = lru_cache(_MAX_MASKS)(self._make_mask)

    def allowed(self, outputs: Sequence[int], /) -> bytes:
        """See `TokenGuide.allowed`."""
        first = self._vocabulary.first_timestamp
        if not self._has_timestamps or not len(outputs):
            return self._mask(_Times(is_first=not len(outputs)))
        ends_in_time = outputs[-1] >= first
        has_pair = ends_in_time and (len(outputs) < 2 or outputs[-2] >= first)
        latest = next((token for token in reversed(outputs) if token >= first), None)
        return self._mask(_Times(ends_in_time=ends_in_time, has_pair=has_pair, latest=latest))

    def _make_mask(self, times: _Times) -> bytes:
        allowed = self._allowed.copy()
        if times.is_first:
            allowed[list(self._vocabulary.suppressed_first)] = False
        if self._has_timestamps:
            self._keep_times(allowed, times)
        if not allowed.any():
            allowed[self._vocabulary.end] = True
        return np.packbits(allowed, bitorder="little").tobytes()

    def _keep_times(self, allowed: np.ndarray, times: _Times) -> None:
        first, end = self._vocabulary.first_timestamp, self._vocabulary.end
        if times.is_first:
            allowed[:first] = False
            allowed[first + self._max_first + 1 :] = False
            return
        has_begun = times.ends_in_time and not times.has_pair
        if times.has_pair:
            allowed[first:] = False
        elif has_begun:
            words = allowed[:first]
            may_end = words[end]
            words[:] = False
            words[end] = may_end
        if times.latest is not None:  # a segment may begin when the previous one ends, and must not be empty
            allowed[first : times.latest if has_begun else times.latest + 1] = False
