"""One window of a sound: its tokens as segments, whether its text is accepted, and where the next window begins.

Source: openai/whisper, whisper/transcribe.py; Whisper, arXiv 2212.04356, section 4.5.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.speech.transcript import SpeechSegment
from shoal.speech.vocabulary import POSITION_S, SpeechVocabulary

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures at which a window is decoded, one after the other, until its text is accepted."""
_FRAMES_PER_POSITION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Result of one decoding of a window."""

    token_ids: tuple[int, ...]
    """Tokens without the end of the text."""
    text: str
    avg_logprob: float
    temperature: float
    no_speech_prob: float

    @property
    def compression_ratio(self) -> float:
        """Bytes of the text divided by its compressed bytes."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Conditions for accepting a text. None: no condition."""

    compression_ratio: float | None = 2.4
    """A text with a higher compression ratio repeats itself, and is decoded again."""
    logprob: float | None = -1.0
    """A text with a lower average log-probability is decoded again."""
    no_speech: float | None = 0.6
    """If silence is more likely than this, an unlikely text is left out."""

    def leave_out(self, decoded: Decoded) -> bool:
        """Whether the window counts as silence."""
        if self.no_speech is None or decoded.no_speech_prob <= self.no_speech:
            return False
        return self.logprob is None or decoded.avg_logprob <= self.logprob

    def believe(self, decoded: Decoded) -> bool:
        """Whether the text is accepted, so that no other temperature is tried."""
        if self.leave_out(decoded):
            return True
        repeats = self.compression_ratio is not None and decoded.compression_ratio > self.compression_ratio
        is_unlikely = self.logprob is not None and decoded.avg_logprob < self.logprob
        return not repeats and not is_unlikely


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnd:
    """The segments of a window, and where it ends."""

    segments: tuple[SpeechSegment, ...]
    num_frames: int
    """Frames of 10 ms from the window's beginning to that of the next one; above 0."""


def read_window(
    decoded: Decoded,
    vocabulary: SpeechVocabulary,
    decode: Callable[[Sequence[int]], str],
    *,
    seek_frames: int,
    num_frames: int,
    thresholds: Thresholds,
) -> WindowEnd:
    """Read the segments of a window.

    Args:
        decoded: result of decoding.
        vocabulary: of the model.
        decode: turns tokens into text.
        seek_frames: beginning of the window in the sound.
        num_frames: frames of the window that are sound, not padding.
        thresholds: conditions for counting the window as silence.
    """
    if thresholds.leave_out(decoded):
        return WindowEnd(segments=(), num_frames=num_frames)
    first, tokens = vocabulary.first_timestamp, decoded.token_ids
    spans, positions = _spans(tokens, first, num_frames // _FRAMES_PER_POSITION)
    origin_s = seek_frames / 100
    segments = [
        SpeechSegment(
            start_s=origin_s + begin * POSITION_S,
            end_s=origin_s + end * POSITION_S,
            text=decode([token for token in tokens[start:stop] if vocabulary.is_word(token)]),
            token_ids=tuple(tokens[start:stop]),
            temperature=decoded.temperature,
            avg_logprob=decoded.avg_logprob,
            compression_ratio=decoded.compression_ratio,
            no_speech_prob=decoded.no_speech_prob,
            seek_frames=seek_frames,
        )
        for start, stop, begin, end in spans
    ]
    said = tuple(segment for segment in segments if segment.text.strip() and segment.end_s > segment.start_s)
    moved = positions * _FRAMES_PER_POSITION if positions else num_frames
    return WindowEnd(segments=said, num_frames=min(moved, num_frames) or num_frames)


def _spans(tokens: Sequence[int], first: int, num_positions: int) -> tuple[list[tuple[int, int, int, int]], int]:
    """(first token, token after the last, beginning, end) of each segment, with times in positions; and the position at
    which the next window begins, or 0 if the whole window is finished."""
    is_time = [token >= first for token in tokens]
    ends = [index for index in range(1, len(tokens)) if is_time[index - 1] and is_time[index]]
    closes = len(tokens) >= 2 and is_time[-1] and not is_time[-2]
    if not ends:
        begin = tokens[0] - first if tokens and is_time[0] else 0
        times = [token - first for token in tokens if token >= first]
        end = times[-1] if times and times[-1] > begin else num_positions
        return [(0, len(tokens), begin, end)], 0
    ends = [*ends, len(tokens)] if closes else ends
    spans: list[tuple[int, int, int, int]] = []
    start = 0
    for stop in ends:
        spans.append((start, stop, tokens[start] - first, tokens[stop - 1] - first))
        start = stop
    return spans, 0 if closes else tokens[ends[-1] - 1] - first
