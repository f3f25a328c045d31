"""What was said and when: segments, and the forms that they are written in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWord:
    """A word with its punctuation."""

    text: str
    """with the space before it"""
    start_s: float
    """from the beginning of the sound"""
    end_s: float
    probability: float
    """mean of its tokens'"""
    num_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI's `verbose_json` has it."""
        return {"word": self.text.strip(), "start": round(self.start_s, 2), "end": round(self.end_s, 2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSegment:
    """Some words that were said one after the other."""

    start_s: float
    """from the beginning of the sound"""
    end_s: float
    text: str
    """with the space before it"""
    token_ids: tuple[int, ...]
    """with the times at its ends"""
    temperature: float
    """that its window was decoded at"""
    avg_logprob: float
    """of its window's tokens"""
    compression_ratio: float
    """of its window's text; a high one means that it repeats itself"""
    no_speech_prob: float
    """that nothing is said in its window"""
    seek_frames: int
    """where its window begins, in frames of 10 ms"""
    words: tuple[SpokenWord, ...] = ()
    """where they were asked for"""

    def as_dict(self, number: int) -> dict[str, Any]:
        """As OpenAI's `verbose_json` has it."""
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
    """Everything that was said."""

    task: str
    """transcribe or translate"""
    language: str
    """that was spoken, by its code; empty where nothing was said by which it could be told"""
    duration_s: float
    segments: Sequence[SpeechSegment]

    @property
    def text(self) -> str:
        """All of it on one line."""
        return "".join(segment.text for segment in self.segments).strip()


def as_text(transcript: Transcript) -> str:
    """One line."""
    return f"{transcript.text}\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip: numbered, with a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(one.start_s, ',')} --> {_clock(one.end_s, ',')}\n{one.text.strip()}\n\n"
        for number, one in enumerate(transcript.segments, 1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT. An arrow in the text would end it: it is written with another character."""
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
"""forms that are no JSON, by OpenAI's names"""


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, rest = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{rest:03d}"
