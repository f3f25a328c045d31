"""Sound as a step of chains: what is given, what is made, and a question that is heard and answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.arrays import F32
from shoal.chains.definition import Chain, parse_chain
from shoal.chains.run import run_chain
from shoal.chains.steps import SpeechStep
from shoal.errors import ConfigError, InvalidRequest, RequestError
from tests.chains.test_text_steps import Runner
from tests.model.tiny_models import make_tiny_gguf
from tests.model.tiny_whisper import make_tiny_whisper
from tests.speech.sounds import sound_file, tone


class Ear(Runner):
    """Hears how many samples there are."""

    async def transcribe(self, step: SpeechStep, samples_S: F32) -> tuple[str, list[dict[str, Any]]]:
        assert samples_S.dtype == np.float32
        return f"{len(samples_S)} of {step.options['language']}", [{"end": 1.0}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    make_tiny_whisper(folder / "whisper")
    make_tiny_gguf(folder)
    return folder


HEARD = {"speech": "whisper", "audio": "sound", "options": {"language": "de"}, "outputs": ["said", "segments"]}


def chain_of(folder: Path, *steps: dict[str, Any], outputs: list[str]) -> Chain:
    return parse_chain({"inputs": {"sound": "audio"}, "steps": [*steps], "outputs": outputs}, folder / "chain.yaml")


def test_a_step_makes_a_text_and_its_segments(folder: Path) -> None:
    chain = chain_of(folder, HEARD, outputs=["said", "segments"])
    found = asyncio.run(run_chain(chain, Ear(), {"sound": np.zeros(7)}))
    assert found["said"] == "7 of de"
    assert [segment["end"] for segment in found["segments"]] == [1.0]
    assert folder / "whisper" / "model.safetensors" in chain.files
    alone = chain_of(folder, {**HEARD, "outputs": ["said"], "each": ["sound"]}, outputs=["said"])
    assert asyncio.run(run_chain(alone, Ear(), {"sound": [np.zeros(1), np.zeros(2)]}))["said"] == ["1 of de", "2 of de"]


@pytest.mark.parametrize("sound", ["text", np.zeros((2, 2)), np.zeros(3, np.int16)])
def test_values_that_are_no_sound(folder: Path, sound: Any) -> None:
    with pytest.raises(RequestError, match="'sound' must be samples"):
        asyncio.run(run_chain(chain_of(folder, HEARD, outputs=["said"]), Ear(), {"sound": sound}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"speech": "none"}, "there is no file or folder"),
        ({"outputs": ["a", "b", "c"]}, "'c' is one too many"),
        ({"audio": "sond"}, "did you mean 'sound'"),
        ({"prompt": "x"}, "no key 'prompt'"),
    ],
)
def test_mistakes_in_a_step(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chain_of(folder, {**HEARD, **changes}, outputs=["said"])


def test_what_is_heard_is_answered(folder: Path) -> None:
    """Sound to transcript to answer, by models that are loaded."""
    pytest.importorskip("av")
    (gguf,) = folder.glob("*.gguf")
    (folder / "heard.yaml").write_text(f"""
inputs: {{sound: audio}}
steps:
  - speech: whisper
    audio: sound
    options: {{language: en, temperature: 0.0}}
    load: {{threads: 1, split: "1"}}
    outputs: [said, segments]
  - llm: {gguf.name}
    prompt: "{{said}}"
    raw: true
    sampling: {{max_tokens: 5, temperature: 0}}
    load: {{threads: 1, split: "1"}}
    outputs: [answer]
outputs: [said, segments, answer]
""")
    sound = sound_file(tone(0.6))
    with shoal.chain(folder / "heard.yaml") as heard:
        found = heard(sound=sound)
        with pytest.raises(InvalidRequest, match="sound"):
            heard(sound=b"no sound")
    with shoal.Transcriber(folder / "whisper", threads=1, split="1") as alone:
        assert "".join(segment["text"] for segment in found["segments"]).strip() == found["said"]
        assert found["said"] == alone.transcribe(sound, language="en").text
    with shoal.LLM(gguf, threads=1, split="1") as llm:
        assert found["answer"] == llm.generate(found["said"], max_tokens=5, temperature=0).text
    (folder / "wrong.yaml").write_text(
        "inputs: {sound: audio}\nsteps: [{speech: whisper, audio: sound, options: {langauge: de}, outputs: [said]}]\n"
        "outputs: [said]\n"
    )
    with pytest.raises(ConfigError, match="langauge"):
        shoal.chain(folder / "wrong.yaml")
