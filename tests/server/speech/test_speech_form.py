"""The fields of a form with sound: what is taken, and what is refused by name."""

from __future__ import annotations

import pytest

from shoal.errors import InvalidRequest
from shoal.server.speech.schemas import SpeechForm, read_speech_form

FILE = ("file", b"sound")


def read(*parts: tuple[str, str | bytes], strict: bool = False) -> SpeechForm:
    return read_speech_form([FILE, *parts], is_translation=False, strict_fields=strict)


def test_a_form() -> None:
    form = read(
        ("model", "tiny"),
        ("language", "de"),
        ("response_format", "srt"),
        ("temperature", "0.4"),
        ("stream", "true"),
        ("timestamp_granularities[]", "segment"),
        ("chunking_strategy", "auto"),
        ("who_knows", "1"),
    )
    assert (form.model, form.language, form.response_format) == ("tiny", "de", "srt")
    assert (form.temperature, form.streams, form.file) == (0.4, True, b"sound")
    assert read_speech_form([FILE, ("language", "de")], is_translation=True).language is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", "diarized_json"),
        ("temperature", "2"),
        ("temperature", "nan"),
        ("temperature", "warm"),
        ("stream", "perhaps"),
        ("timestamp_granularities[]", "word"),
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


def test_without_a_file_and_with_unknown_fields() -> None:
    with pytest.raises(InvalidRequest, match="`file` is missing"):
        read_speech_form([("file", "text")], is_translation=False)
    with pytest.raises(InvalidRequest, match="who_knows"):
        read(("who_knows", "1"), strict=True)
