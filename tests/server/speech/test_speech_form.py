"""The fields of a form with sound: what is taken, and what is refused by name."""

from __future__ import annotations

import pytest

from shoal.errors import InvalidRequest
from shoal.server.speech.schemas import SpeechForm, read_speech_form
from shoal.speech.window import Thresholds

FILE = ("file", b"sound")


def read(*parts: tuple[str, str | bytes], strict: bool = False) -> SpeechForm:
    return read_speech_form([FILE, *parts], is_translation=False, strict_fields=strict)


def test_a_form() -> None:
    form = read(
        ("model", "tiny"),
        ("language", "de"),
        ("response_format", "text"),
        ("temperature", "0.4"),
        ("stream", "true"),
        ("timestamp_granularities[]", "segment"),
        ("chunking_strategy", "auto"),
        ("who_knows", "1"),
    )
    assert (form.model, form.language, form.response_format) == ("tiny", "de", "text")
    assert (form.temperature, form.streams, form.file) == (0.4, True, b"sound")
    assert read_speech_form([FILE, ("language", "de")], is_translation=True).language is None


def test_the_fields_of_a_search() -> None:
    plain = read()
    assert (plain.beam_size, plain.best_of, plain.patience, plain.length_penalty) == (None, 5, 1.0, None)
    assert plain.thresholds == Thresholds()
    form = read(
        ("beam_size", "3"),
        ("best_of", "2"),
        ("patience", "2"),
        ("length_penalty", "0.5"),
        ("compression_ratio_threshold", "3"),
        ("log_prob_threshold", "-2"),
        ("no_speech_threshold", "0.9"),
        strict=True,
    )
    assert (form.beam_size, form.best_of, form.patience, form.length_penalty) == (3, 2, 2.0, 0.5)
    assert form.thresholds == Thresholds(compression_ratio=3.0, logprob=-2.0, no_speech=0.9)
    assert read(("logprob_threshold", "-3")).thresholds.logprob == -3.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_size", "0"),
        ("beam_size", "2.5"),
        ("beam_size", "65"),
        ("best_of", "many"),
        ("patience", "0"),
        ("length_penalty", "2"),
        ("log_prob_threshold", "1"),
        ("no_speech_threshold", "nan"),
        ("response_format", "diarized_json"),
        ("temperature", "2"),
        ("temperature", "nan"),
        ("temperature", "warm"),
        ("stream", "perhaps"),
        ("timestamp_granularities[]", "letter"),
        ("include[]", "logprobs"),
        ("chunking_strategy", '{"type": "server_vad"}'),
        ("language", b"de"),
        ("file", b"twice"),
    ],
)
def test_what_cannot_be_is_named(name: str, value: str | bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read((name, value))
    assert refused.value.param == name


def test_times_of_words_need_a_form_that_has_them() -> None:
    words = ("timestamp_granularities[]", "word")
    verbose = ("response_format", "verbose_json")
    assert read(words, verbose).granularities == {"word"}
    assert read(words, ("timestamp_granularities[]", "segment"), verbose).granularities == {"word", "segment"}
    assert read(verbose).granularities == {"segment"}
    for others in ((), (verbose, ("stream", "true")), (("response_format", "srt"),)):
        with pytest.raises(InvalidRequest) as refused:
            read(words, *others)
        assert refused.value.param == "timestamp_granularities"


@pytest.mark.parametrize("form", ["srt", "vtt", "verbose_json"])
def test_a_stream_has_no_form_that_is_told_as_a_whole(form: str) -> None:
    with pytest.raises(InvalidRequest, match=f"no {form}") as refused:
        read(("response_format", form), ("stream", "true"))
    assert refused.value.param == "response_format"
    assert read(("response_format", form), ("stream", "false")).response_format == form


def test_without_a_file_and_with_unknown_fields() -> None:
    with pytest.raises(InvalidRequest, match="`file` is missing"):
        read_speech_form([("file", "text")], is_translation=False)
    with pytest.raises(InvalidRequest, match="who_knows"):
        read(("who_knows", "1"), strict=True)
