"""Segments of speech with their times, and the formats in which they are written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord:
    """A word with its punctuation."""

    text: str
    """The word, including the space before it."""
    start_s: float
    """Seconds from the beginning of the sound."""
    end_s: float
    probability: float
    """Mean of its tokens' probabilities."""
    num_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The word in OpenAI's `verbose_json`."""
        return {"word": self.text.strip(), "start": round(self.start_s, 2), "end": round(self.end_s, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSegment:
    """Consecutive words."""

    start_s: float
    """Seconds from the beginning of the sound."""
    end_s: float
    text: str
    """The text, including the space before it."""
    token_ids: tuple[int, ...]
    """Tokens, including the timestamps at both ends."""
    temperature: float
    """Temperature at which its window was decoded."""
    avg_logprob: float
    """Average log-probability of its window's tokens."""
    compression_ratio: float
    """Compression ratio of its window's text; a high value means that the text repeats itself."""
    no_speech_prob: float
    """Probability that nothing is said in its window."""
    seek_frames: int
    """Beginning of its window, in frames of 10 ms."""
    words: tuple[SpokenWord, ...] = ()
    """Words, if they were asked for."""

    def as_dict(self, number: int) -> dict[str, Any]:
        """The segment in OpenAI's `verbose_json`."""
        return {
            "id": number,
            "seek": self.seek_frames,
            "start": round(self.start_s, 2),
            "end": round(self.end_s, 2),
            "text": self.text,
            "tokens": list(self.token_ids),
            "temperature": self.temperature,
            "avg_logprob": self.avg_logprob,
            "compression_ratio": self.compression_ratio,
            "no_speech_prob": self.no_speech_prob,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A complete transcript."""

    task: str
    """`transcribe` or `translate`."""
    language: str
    """Code of the spoken language; empty if nothing was said from which it could be detected."""
    duration_s: float
    segments: Sequence[SpeechSegment]

    @property
    def text(self) -> str:
        """The whole text on one line."""
        return "".join(segment.text for segment in self.segments).strip()


def as_text(transcript: Transcript) -> str:
    """The text on one line."""
    return f"{transcript.text}\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip: numbered, with a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(one.start_s, ',')} --> {_clock(one.end_s, ',')}\n{one.text.strip()}\n\n"
        for number, one in enumerate(transcript.segments, 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT. An arrow in the text would end a cue, so it is replaced by another character."""
    cues = (
        f"{_clock(one.start_s, '.')} --> {_clock(one.end_s, '.')}\n{one.text.strip().replace('-->', '->')}\n\n"
        for one in transcript.segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def as_verbose(
    transcript: Transcript, language_name: str, granularities: Collection[str] = ("segment",)
) -> dict[str, Any]:
    """OpenAI's `verbose_json`, with segments, words or both."""
    whole: dict[str, Any] = {
        "task": transcript.task,
        "language": language_name,
        "duration": round(transcript.duration_s, 2),
        "text": transcript.text,
    }
    if "word" in granularities:
        whole["words"] = [word.as_dict() for segment in transcript.segments for word in segment.words]
    if "segment" in granularities:
        whole["segments"] = [segment.as_dict(number) for number, segment in enumerate(transcript.segments)]
    return whole


TEXT_FORMS: Mapping[str, Callable[[Transcript], str]] = {"text": as_text, "srt": as_srt, "vtt": as_vtt}
"""Formats other than JSON, by OpenAI's names."""


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, rest = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{rest:03d}"
