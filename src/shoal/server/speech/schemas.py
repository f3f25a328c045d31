"""The fields of a form with sound. Source: OpenAI API reference, Create transcription, Create translation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from shoal.errors import InvalidRequest
from shoal.speech.options import BEST_OF
from shoal.speech.window import Thresholds

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]

_KNOWN = (
    "file",
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    "stream",
    "timeout",
    "beam_size",
    "best_of",
    "patience",
    "length_penalty",
    "compression_ratio_threshold",
    "logprob_threshold",
    "log_prob_threshold",
    "no_speech_threshold",
)
_MAX_BEAMS = 64
"""Most hypotheses of a search and most draws, whatever --max-seqs says."""
_GRANULARITIES = ("timestamp_granularities", "timestamp_granularities[]")
_REFUSED = {
    "keywords": "words that are to be expected go into `prompt`",
    "keywords[]": "words that are to be expected go into `prompt`",
    "languages": "one language is told, in `language`, or found out",
    "languages[]": "one language is told, in `language`, or found out",
    "include": "log-probabilities are not told",
    "include[]": "log-probabilities are not told",
    "known_speaker_names": "who speaks is not told",
    "known_speaker_names[]": "who speaks is not told",
    "known_speaker_references": "who speaks is not told",
    "known_speaker_references[]": "who speaks is not told",
}
_SWITCHES = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechForm:
    """A checked form."""

    file: bytes
    model: str | None
    language: str | None
    prompt: str
    response_format: ResponseFormat
    granularities: frozenset[str]
    """Parts of `verbose_json`: segment, word or both."""
    temperature: float
    streams: bool
    timeout_s: float | None
    beam_size: int | None
    """None: the server's"""
    best_of: int
    patience: float
    length_penalty: float | None
    thresholds: Thresholds


def read_speech_form(
    parts: Sequence[tuple[str, str | bytes]], *, is_translation: bool, strict_fields: bool = False
) -> SpeechForm:
    """Check the parts of a form.

    Args:
        parts: in order.
        is_translation: whether the speech is translated; then its language is not a field.
        strict_fields: refuse unknown fields.

    Raises:
        InvalidRequest: names the invalid field.
    """
    fields: dict[str, str | bytes] = {}
    granularities: set[str] = set()
    for name, value in parts:
        if name in fields and name not in _GRANULARITIES:
            raise InvalidRequest(f"`{name}` is given twice", name)
        if name in _GRANULARITIES:
            granularities.add(_granularity(name, _text(name, value)))
        _check_known(name, value, strict_fields=strict_fields)
        fields[name] = value
    file = fields.get("file")
    if not isinstance(file, bytes):
        raise InvalidRequest("`file` is missing: send a sound file as a part with a file name", "file")

    def text(name: str) -> str:
        return _text(name, fields.get(name, ""))

    if "word" in granularities and (text("response_format") != "verbose_json" or _switch("stream", text("stream"))):
        raise InvalidRequest(
            "times of words need `response_format` verbose_json, and no `stream`", "timestamp_granularities"
        )

    response_format, streams = _format(text("response_format") or "json"), _switch("stream", text("stream"))
    if streams and response_format not in ("json", "text"):
        raise InvalidRequest(f"a stream has no {response_format}: leave one out", "response_format")
    return SpeechForm(
        file=file,
        model=text("model") or None,
        language=None if is_translation else text("language").strip() or None,
        prompt=text("prompt"),
        response_format=response_format,
        granularities=frozenset(granularities or {"segment"}),
        temperature=_number("temperature", text("temperature") or "0", 0.0, 1.0),
        streams=streams,
        timeout_s=_number("timeout", text("timeout"), 0.001, 1e6) if text("timeout") else None,
        beam_size=_count("beam_size", text("beam_size")) if text("beam_size") else None,
        best_of=_count("best_of", text("best_of") or str(BEST_OF)),
        patience=_number("patience", text("patience") or "1", 0.01, 10.0),
        length_penalty=_number("length_penalty", text("length_penalty"), 0.0, 1.0) if text("length_penalty") else None,
        thresholds=_thresholds(text),
    )


def _check_known(name: str, value: str | bytes, *, strict_fields: bool) -> None:
    if name in _REFUSED:
        raise InvalidRequest(f"`{name}` is not supported: {_REFUSED[name]}", name)
    if name == "chunking_strategy":
        if value not in ("auto", "", "null"):
            raise InvalidRequest("`chunking_strategy` must be auto: long sound is always cut where nobody speaks", name)
        return
    if strict_fields and name not in (*_KNOWN, *_GRANULARITIES):
        raise InvalidRequest(f"`{name[:80]}` is not a known field", name[:80])


def _granularity(name: str, value: str) -> str:
    if value not in ("word", "segment"):
        raise InvalidRequest(f"`{name}` must be word or segment, not {value[:40]!r}", name)
    return value


def _text(name: str, value: str | bytes) -> str:
    if isinstance(value, bytes):
        raise InvalidRequest(f"`{name}` must be a text, not a file", name)
    return value


def _format(value: str) -> ResponseFormat:
    known = get_args(ResponseFormat)
    if value not in known:
        raise InvalidRequest(
            f"`response_format` must be one of {', '.join(known)}, not {value[:40]!r}", "response_format"
        )
    return cast(ResponseFormat, value)


def _number(name: str, value: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        raise InvalidRequest(f"`{name}` must be a number from {low:g} to {high:g}, not {value[:40]!r}", name)
    return number


def _count(name: str, value: str) -> int:
    number = _number(name, value, 1, _MAX_BEAMS)
    if number != int(number):
        raise InvalidRequest(f"`{name}` must be a whole number, not {value[:40]!r}", name)
    return int(number)


def _thresholds(text: Callable[[str], str]) -> Thresholds:
    """Thresholds by openai/whisper's names; faster-whisper has another name for one of them."""
    usual = Thresholds()
    logprob = "log_prob_threshold" if text("log_prob_threshold") else "logprob_threshold"
    ratio, no_speech = "compression_ratio_threshold", "no_speech_threshold"
    return Thresholds(
        compression_ratio=_number(ratio, text(ratio) or str(usual.compression_ratio), 0.0, 1e6),
        logprob=_number(logprob, text(logprob) or str(usual.logprob), -1e6, 0.0),
        no_speech=_number(no_speech, text(no_speech) or str(usual.no_speech), 0.0, 1.0),
    )


def _switch(name: str, value: str) -> bool:
    if value.lower() not in _SWITCHES:
        raise InvalidRequest(f"`{name}` must be true or false, not {value[:40]!r}", name)
    return _SWITCHES[value.lower()]
