"""One window of a sound: its tokens read as segments, whether they are believed, and where the next window begins.

Source: openai/whisper, whisper/transcribe.py; Whisper, arXiv 2212.04356, section 4.5.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.speech.transcript import SpeechSegment
from shoal.speech.vocabulary import POSITION_S, SpeechVocabulary

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""that a window is decoded at, one after the other, until its text is believed"""
_FRAMES_PER_POSITION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What one decoding of a window gave."""

    token_ids: tuple[int, ...]
    """without the end of the text"""
    text: str
    avg_logprob: float
    temperature: float
    no_speech_prob: float

    @property
    def compression_ratio(self) -> float:
        """Bytes of the text over those of what it can be packed into."""
        data = self.text.encode()
        return len(data) / len(zlib.compress(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a text must be like. None: it need not."""

    compression_ratio: float | None = 2.4
    """A text that can be packed tighter repeats itself, and is decoded again."""
    logprob: float | None = -1.0
    """on average: a less likely text is decoded again"""
    no_speech: float | None = 0.6
    """If it is likelier than this that nothing is said, a text that is not likely is left out."""

    def leave_out(self, decoded: Decoded) -> bool:
        """Whether nothing is said."""
        if self.no_speech is None or decoded.no_speech_prob <= self.no_speech:
            return False
        return self.logprob is None or decoded.avg_logprob <= self.logprob

    def believe(self, decoded: Decoded) -> bool:
        """Whether another temperature need not be tried."""
        if self.leave_out(decoded):
            return True
        repeats = self.compression_ratio is not None and decoded.compression_ratio > self.compression_ratio
        is_unlikely = self.logprob is not None and decoded.avg_logprob < self.logprob
        return not repeats and not is_unlikely


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEnd:
    """The segments of a window and how far they reach."""

    segments: tuple[SpeechSegment, ...]
    num_frames: int
    """from the window's beginning to that of the next, in frames of 10 ms; above 0"""


def read_window(
    decoded: Decoded,
    vocabulary: SpeechVocabulary,
    decode: Callable[[Sequence[int]], str],
    *,
    seek_frames: int,
    num_frames: int,
    thresholds: Thresholds,
) -> WindowEnd:
    """The segments of a window.

    Args:
        decoded: what was decoded.
        vocabulary: of the model.
        decode: from tokens to text.
        seek_frames: where the window begins in the sound.
        num_frames: of the window that are sound and not padding.
        thresholds: by which it is told whether anything was said.
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
    """(first token, token behind the last, beginning, end) of each segment, times in positions; and the position that
    the next window begins at, 0 where this one is finished."""
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
