"""The forms that a transcript is written in."""

from __future__ import annotations

from shoal.speech.languages import LANGUAGES, language_code
from shoal.speech.transcript import SpeechSegment, Transcript, as_srt, as_text, as_verbose, as_vtt


def segment(start_s: float, end_s: float, text: str) -> SpeechSegment:
    return SpeechSegment(
        start_s=start_s,
        end_s=end_s,
        text=text,
        token_ids=(1, 2),
        temperature=0.0,
        avg_logprob=-0.5,
        compression_ratio=1.0,
        no_speech_prob=0.1,
        seek_frames=0,
    )


TRANSCRIPT = Transcript(
    task="transcribe",
    language="en",
    duration_s=3700.0,
    segments=(segment(0.0, 1.5, " One --> two."), segment(3661.0, 3662.25, " Three.")),
)


def test_forms() -> None:
    assert as_text(TRANSCRIPT) == "One --> two. Three.\n"
    assert as_srt(TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne --> two.\n\n2\n01:01:01,000 --> 01:01:02,250\nThree.\n\n"
    )
    assert as_vtt(TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne -> two.\n\n01:01:01.000 --> 01:01:02.250\nThree.\n\n"
    )
    verbose = as_verbose(TRANSCRIPT, "english")
    assert (verbose["language"], verbose["duration"], len(verbose["segments"])) == ("english", 3700.0, 2)
    assert verbose["segments"][1]["id"] == 1


def test_languages_by_code_and_by_name() -> None:
    assert len(LANGUAGES) == 100
    assert language_code("German") == "de"
    assert language_code(" EN ") == "en"
    assert language_code("klingon") == "klingon"
