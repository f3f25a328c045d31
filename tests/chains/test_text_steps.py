"""Encoders and language models as steps of chains: what they are given, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.arrays import F32, Array
from shoal.chains.definition import Chain, parse_chain
from shoal.chains.run import run_chain
from shoal.chains.steps import EncoderStep, FunctionStep, LanguageStep
from shoal.errors import ConfigError, InvalidRequest, RequestError
from tests.model.encoder.tiny_encoders import make_encoder


class Runner:
    """Vectors are lengths, scores are those of texts that hold the query, answers are what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def run_graph(self, model: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise AssertionError

    async def call_function(self, step: FunctionStep, values: Mapping[str, Any]) -> Sequence[Any]:
        raise AssertionError

    async def encode(self, step: EncoderStep, texts: Sequence[str], query: str | None) -> F32:
        if query is not None:
            return np.array([text.count(query) for text in texts], np.float32)
        return np.array([[len(text), 1] for text in texts], np.float32)

    async def answer(self, step: LanguageStep, prompt: str, system: str) -> str:
        self.asked.append((prompt, system))
        return f"to {prompt}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    make_encoder(folder / "vectors")
    make_encoder(folder / "pairs", compares=True, pooling=None)
    (folder / "model.gguf").touch()
    return folder


def chain_of(folder: Path, *steps: dict[str, Any], outputs: Sequence[str], **inputs: str) -> Chain:
    data = {"inputs": inputs or {"question": "text", "passages": "texts"}, "steps": [*steps], "outputs": [*outputs]}
    return parse_chain(data, folder / "chain.yaml")


def run(chain: Chain, given: Mapping[str, Any], runner: Runner | None = None) -> dict[str, Any]:
    return asyncio.run(run_chain(chain, runner or Runner(), given))


VECTORS = {"encoder": "vectors", "texts": "passages", "outputs": ["v"]}
RANKED = {"encoder": "pairs", "query": "question", "texts": "passages", "top_n": 2, "outputs": ["best", "scores"]}
ANSWER = {"llm": "model.gguf", "prompt": "{best}\n{{Q}}: {question}", "system": "Be {question}.", "outputs": ["answer"]}
GIVEN = {"question": "a", "passages": ["b", "aa", "a", "aaa"]}


def test_vectors_of_a_text_and_of_a_list(folder: Path) -> None:
    both = [VECTORS, {**VECTORS, "name": "one", "texts": "question", "kind": "query", "outputs": ["w"]}]
    found = run(chain_of(folder, *both, outputs=["v", "w"]), GIVEN)
    assert found["v"].tolist() == [[1, 1], [2, 1], [1, 1], [3, 1]]
    assert found["w"].tolist() == [1, 1]
    assert run(chain_of(folder, VECTORS, outputs=["v"]), {**GIVEN, "passages": []})["v"].size == 0


def test_the_best_texts_are_written_into_a_prompt(folder: Path) -> None:
    runner = Runner()
    found = run(chain_of(folder, RANKED, ANSWER, outputs=["best", "scores", "answer"]), GIVEN, runner)
    assert found["best"] == ["aaa", "aa"]
    assert found["scores"].tolist() == [3, 2]
    assert runner.asked == [("aaa\naa\n{Q}: a", "Be a.")]
    assert found["answer"] == "to aaa\naa\n{Q}: a"


def test_a_prompt_for_every_item(folder: Path) -> None:
    each = {"llm": "model.gguf", "prompt": "{passages}?", "each": ["passages"], "outputs": ["answers"]}
    assert run(chain_of(folder, each, outputs=["answers"]), {**GIVEN, "passages": ["x", "{y}"]}) == {
        "answers": ["to x?", "to {y}?"]
    }


@pytest.mark.parametrize("passages", [3, [b"x"], ["x"] * 5000])
def test_values_that_are_no_texts(folder: Path, passages: Any) -> None:
    with pytest.raises(RequestError, match="'passages'"):
        run(chain_of(folder, RANKED, outputs=["best"]), {**GIVEN, "passages": passages})


def test_what_a_chain_consists_of(folder: Path) -> None:
    chain = chain_of(folder, VECTORS, RANKED, ANSWER, outputs=["answer"])
    assert list(chain.models) == ["vectors", "pairs"]
    assert chain.graphs == {}
    (step,) = chain.language_steps
    assert (step.name, step.model, step.inputs) == ("model", str(folder / "model.gguf"), ("best", "question"))
    assert folder / "model.gguf" in chain.files


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({**VECTORS, "encoder": "none"}, "there is no encoder of texts"),
        ({**VECTORS, "outputs": ["v", "w"]}, "'w' is one too many"),
        ({**VECTORS, "top_n": 2}, "if there is a `query`"),
        ({**VECTORS, "encoder": "pairs"}, "needs a `query`"),
        ({**VECTORS, "prompt": "x"}, "no key 'prompt'"),
        ({**RANKED, "top_n": 0}, "from 1 to 4096"),
        ({**VECTORS, "model": "a.onnx"}, "exactly one of"),
        ({**ANSWER, "llm": "none.gguf"}, "there is no file or folder"),
        ({**ANSWER, "prompt": "{question.x}"}, "is not the name of a value"),
        ({**ANSWER, "prompt": "{question!r}"}, "is not the name of a value"),
        ({**ANSWER, "prompt": "{question"}, "write a literal brace twice"),
        ({**ANSWER, "prompt": "{questoin}"}, "did you mean 'question'"),
        ({**ANSWER, "raw": "yes"}, "raw is true or false"),
        ({**ANSWER, "raw": True}, "part of a conversation"),
        ({**ANSWER, "outputs": ["a", "b"]}, "'b' is one too many"),
        ({**ANSWER, "each": ["passages"]}, "not an input of this step"),
    ],
)
def test_mistakes_in_steps_over_texts(folder: Path, step: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, InvalidRequest), match=said):
        chain_of(folder, step, outputs=step["outputs"][:1])
