"""Cuts long sound at silences into pieces no longer than a clip, which are transcribed side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shoal.arrays import F32
from shoal.speech.sound.features import SAMPLE_RATE
from shoal.speech.sound.voice import FRAME_SAMPLES, SampleSpan, speech_spans, voice_available, voice_probabilities

_MARGIN_S = 0.2
"""Silence that is kept before and after speech."""
_SEARCH_SHARE = 1 / 3
"""Share of a clip, at its end, that is searched for a place to cut speech without silences."""


def pieces_of(samples_S: F32, clip_samples: int) -> list[SampleSpan]:
    """The pieces of a sound that are to be transcribed, in order.

    A sound no longer than a clip is one piece. A longer one is cut where nobody speaks, but stays whole if the voice
    detector is not installed: then its windows follow one after the other.

    Args:
        samples_S: the whole sound.
        clip_samples: length of the longest piece.
    """
    if len(samples_S) <= clip_samples or not voice_available():
        return [SampleSpan(0, len(samples_S))]
    probabilities = voice_probabilities(samples_S)
    spans = [part for span in speech_spans(probabilities) for part in _cut(span, probabilities, clip_samples)]
    return join_spans(spans, clip_samples, len(samples_S))


def join_spans(spans: Sequence[SampleSpan], clip_samples: int, num_samples: int) -> list[SampleSpan]:
    """Join as many neighboring spans as fit a clip, with a little of the silence around them."""
    margin = int(_MARGIN_S * SAMPLE_RATE)
    pieces: list[SampleSpan] = []
    for index, span in enumerate(spans):
        stop = min(span.stop + margin, spans[index + 1].start if index + 1 < len(spans) else num_samples)
        if pieces and stop - pieces[-1].start <= clip_samples:
            pieces[-1] = SampleSpan(pieces[-1].start, stop)
            continue
        start = max(span.start - margin, pieces[-1].stop if pieces else 0)
        pieces.append(SampleSpan(start, min(stop, start + clip_samples)))
    return pieces


def _cut(span: SampleSpan, probabilities: F32, clip_samples: int) -> list[SampleSpan]:
    """Cut a span that is longer than a clip where it is quietest, near the end of each clip."""
    parts: list[SampleSpan] = []
    start = span.start
    longest = clip_samples - 2 * int(_MARGIN_S * SAMPLE_RATE)
    while span.stop - start > longest:
        last = (start + longest) // FRAME_SAMPLES
        first = last - int(_SEARCH_SHARE * longest) // FRAME_SAMPLES
        cut = (first + int(np.argmin(probabilities[first:last]))) * FRAME_SAMPLES
        cut = max(cut, start + FRAME_SAMPLES)
        parts.append(SampleSpan(start, cut))
        start = cut
    return [*parts, SampleSpan(start, span.stop)]
