"""From a question to an answer in one chain: vectors, ranks and a language model, each as it would say alone."""

from __future__ import annotations

import os
import signal
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

import shoal
from shoal.errors import ConfigError
from tests.integration.leaks import no_leaks
from tests.integration.running import EXIT_S
from tests.model.encoder.tiny_encoders import WORDS, make_encoder
from tests.model.language_graph.graph_files import MERGED
from tests.server.embeddings.test_encoder_server import served_encoder

PASSAGES = [" ".join(WORDS[first : first + 3]) for first in range(0, 15, 3)]
QUESTION = "life of the child"
NEAREST = '''
import numpy as np

def nearest(vector, vectors, passages):
    """The four passages nearest to a question."""
    return [passages[place] for place in np.argsort(-vectors @ vector, kind="stable")[:4]]
'''
CHAIN: dict[str, Any] = {
    "name": "ask",
    "inputs": {"question": "text", "passages": "texts"},
    "steps": [
        {"name": "q", "encoder": "vectors", "texts": "question", "kind": "query", "outputs": ["vector"]},
        {"encoder": "vectors", "texts": "passages", "outputs": ["vectors"]},
        {"call": "near.py:nearest", "inputs": ["vector", "vectors", "passages"], "outputs": ["near"]},
        {"encoder": "pairs", "query": "question", "texts": "near", "top_n": 2, "outputs": ["best", "scores"]},
        {
            "llm": "language",
            "prompt": "Know:\n{best}\nAsked: {question}",
            "sampling": {"max_tokens": 12, "temperature": 0.0},
            "load": {"split": "dp=2", "threads": 1},
            "outputs": ["answer"],
        },
    ],
    "outputs": ["vectors", "near", "best", "scores", "answer"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    make_encoder(folder / "vectors")
    make_encoder(folder / "pairs", "roberta", compares=True, pooling=None)
    (folder / "language").symlink_to(MERGED)
    (folder / "near.py").write_text(NEAREST)
    (folder / "chain.yaml").write_text(yaml.safe_dump(CHAIN))
    return folder


def test_a_question_is_answered_as_the_models_would_alone(folder: Path) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    ensure_running()  # a process of Python's own, which stays
    with no_leaks(), shoal.chain(folder, split="1", threads=1) as ask:
        found = ask(question=QUESTION, passages=PASSAGES)
    encoder = transformers.SentenceTransformer(str(folder / "vectors"), device="cpu")
    vectors, vector = encoder.encode(PASSAGES), encoder.encode(QUESTION)
    np.testing.assert_allclose(found["vectors"], vectors, atol=1e-5)
    assert found["near"] == [PASSAGES[place] for place in np.argsort(-vectors @ vector, kind="stable")[:4]]
    ranked = transformers.CrossEncoder(str(folder / "pairs"), device="cpu").rank(QUESTION, found["near"], top_k=2)
    assert found["best"] == [found["near"][one["corpus_id"]] for one in ranked]
    np.testing.assert_allclose(found["scores"], [one["score"] for one in ranked], atol=1e-5)
    with shoal.LLM(MERGED, split="1", threads=1) as llm:
        prompt = "Know:\n{}\n{}\nAsked: {}".format(*found["best"], QUESTION)
        expected = llm.chat([{"role": "user", "content": prompt}], max_tokens=12, temperature=0.0)
    assert found["answer"] == expected.text


def test_a_served_chain_answers_while_all_of_its_workers_are_killed(folder: Path) -> None:
    given = [
        {"name": "question", "datatype": "BYTES", "shape": [1], "data": [QUESTION]},
        {"name": "passages", "datatype": "BYTES", "shape": [len(PASSAGES)], "data": PASSAGES},
    ]
    with served_encoder(folder, "--split", "1", name=None) as server:

        def ask() -> dict[str, Any]:
            answer = httpx.post(f"{server.url}/v2/models/ask/infer", json={"inputs": given}, timeout=EXIT_S)
            assert answer.status_code == 200, answer.text
            return {output["name"]: output["data"] for output in answer.json()["outputs"]}

        first = ask()
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        again = ask()
        ready = httpx.get(f"{server.url}/v2/models/ask/ready", timeout=EXIT_S)
    assert again["answer"] == first["answer"]
    assert again["best"] == first["best"]
    assert ready.status_code == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampling": {"temperatur": 1}}, "did you mean temperature"),
        ({"sampling": {"temperature": -1}}, "sampling: temperature"),
        ({"sampling": {"n": 2}}, "n must be 1"),
        ({"load": {"spilt": "1"}}, "did you mean split"),
    ],
)
def test_options_that_make_no_sense_are_named_before_anything_is_loaded(
    folder: Path, change: dict[str, Any], said: str
) -> None:
    steps = [*CHAIN["steps"][:4], {**CHAIN["steps"][4], **change}]
    (folder / "wrong.yaml").write_text(yaml.safe_dump({**CHAIN, "steps": steps}))
    with pytest.raises(ConfigError, match=said):
        shoal.chain(folder / "wrong.yaml")
