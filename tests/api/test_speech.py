"""shoal.Transcriber and `shoal transcribe` over a tiny Whisper."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import shoal
from shoal.cli.main import app
from shoal.errors import ConfigError, InvalidRequest, ModelLoadError
from shoal.speech.options import SpeechOptions
from shoal.speech.transcriber import WindowText
from tests.model.tiny_models import make_tiny_gguf
from tests.model.tiny_whisper import make_tiny_whisper
from tests.speech.sounds import sound_file, tone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[shoal.Transcriber]:
    with shoal.Transcriber(folder, threads=1) as model:
        yield model


def test_one_sound_and_several(model: shoal.Transcriber) -> None:
    sounds = [tone(0.3), tone(0.6), tone(0.9)]
    alone = [model.transcribe(sound, language="en") for sound in sounds]
    together = model.transcribe(list(sounds), language="en")
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.segments for one in together] == [one.segments for one in alone]
    assert alone[2].duration_s == pytest.approx(0.9)
    assert all(one.text for one in alone)


def test_what_cannot_be_transcribed(model: shoal.Transcriber, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot read"):
        model.transcribe(tmp_path / "missing.wav")
    with pytest.raises(InvalidRequest, match="one dimension"):
        model.transcribe(np.zeros((2, 100), np.float32))
    with pytest.raises(InvalidRequest, match="there is no option langauge"):
        model.transcribe(tone(0.3), langauge="en")  # pyright: ignore[reportCallIssue]
    with pytest.raises(InvalidRequest, match="klingon"):
        model.transcribe(tone(0.3), language="klingon")


def test_windows_are_told_one_by_one(model: shoal.Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is told while the sound goes on: those behind it are not decoded before they are asked for."""
    monkeypatch.setattr("shoal.speech.sound.pieces.voice_available", lambda: False)  # nobody speaks in a tone
    sound, options = tone(4.0), SpeechOptions(language="en", temperature=[0.0], beam_size=1)

    async def first_then_all() -> tuple[list[WindowText], int]:
        told: list[WindowText] = []
        open_then = -1
        async for window in model._windows.windows(sound, options):
            told.append(window)
            if len(told) == 1:
                current = asyncio.current_task()
                open_then = sum(task is not current and not task.done() for task in asyncio.all_tasks())
        return told, open_then

    told, open_then = model._thread.run(first_then_all())
    assert len(told) >= 4
    assert open_then > 0, "the piece is still being decoded"
    text = "".join(segment.text for window in told for segment in window.segments).strip()
    assert text == model.transcribe(sound, language="en", temperature=[0.0], beam_size=1).text


def test_how_texts_are_looked_for(model: shoal.Transcriber) -> None:
    def ask(temperature: list[float], **how: int) -> shoal.Transcript:
        return model.transcribe(tone(0.6), language="en", temperature=temperature, **how)  # pyright: ignore

    texts = {size: ask([0.0], beam_size=size).text for size in (1, 5)}
    assert texts[1] != texts[5]
    assert ask([0.0]).text == texts[5]
    draws = [ask([0.8], best_of=count) for count in (1, 1, 4)]
    assert draws[0].text == draws[1].text != draws[2].text
    assert draws[2].segments[0].avg_logprob > draws[0].segments[0].avg_logprob


def test_a_search_needs_room(folder: Path) -> None:
    result = CliRunner().invoke(app, ["transcribe", str(folder), __file__, "--max-seqs", "4"])
    assert isinstance(result.exception, ConfigError)
    assert "--beam-size 5 needs --max-seqs of at least 5, not 4" in str(result.exception)


def test_models_of_other_kinds(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not a model of speech"):
        shoal.Transcriber(make_tiny_gguf(tmp_path))
    with pytest.raises(ConfigError, match=r"shoal\.Transcriber"):
        shoal.LLM(folder)
    with pytest.raises(ConfigError, match="dp and pp"):
        shoal.Transcriber(folder, split="tp=2")


def test_the_command_writes_subtitles(folder: Path, tmp_path: Path, model: shoal.Transcriber) -> None:
    pytest.importorskip("av")
    for name, seconds in (("one", 0.6), ("two", 0.9)):
        (tmp_path / f"{name}.wav").write_bytes(sound_file(tone(seconds)))
    files = [str(tmp_path / "one.wav"), str(tmp_path / "two.wav")]
    common = ["transcribe", str(folder), *files, "--language", "en", "--threads", "1"]
    result = CliRunner().invoke(app, [*common, "--format", "srt", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"one.srt", "two.srt"}
    result = CliRunner().invoke(app, [*common, "--format", "json"])
    said = [json.loads(line)["text"] for line in result.stdout.splitlines()]
    assert said == [model.transcribe(file, language="en").text for file in files]
