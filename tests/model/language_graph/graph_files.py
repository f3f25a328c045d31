"""Language models as ONNX graphs: those that other projects' tools made (see make_files.py), and plain runs of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.plain_runtime import plain_session

FILES = Path(__file__).parent / "files"
MERGED, GENAI, GENAI_INT4 = (FILES / name for name in ("merged", "genai", "genai_int4"))
MERGED_FILE = MERGED / "decoder_model_merged.onnx"
NUM_TOKENS = 24


@cache
def prompts() -> list[list[int]]:
    return json.loads((FILES / "answers.json").read_text())["prompts"]


@cache
def answers_of_transformers(name: str) -> list[list[int]]:
    """Greedy continuations of the prompts. `name`: llama (in MERGED) or qwen2 (in GENAI)."""
    return json.loads((FILES / "answers.json").read_text())[name]


def plain_answer(graph: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """The greedy continuation by ONNX Runtime alone: the whole text is computed anew for every token."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(plain_logits(graph, ids).argmax()))
    return ids[len(prompt) :]


def plain_logits(graph: Path, ids: list[int]) -> npt.NDArray[np.float32]:
    """Of the last token, by ONNX Runtime alone. `graph`: of GENAI or GENAI_INT4."""
    empty = np.zeros((1, 1, 0, 16), np.float32)
    feed = {f"past_key_values.{layer}.{part}": empty for layer in range(2) for part in ("key", "value")}
    feed |= {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    return plain_session(graph).run(["logits"], feed)[0][0, -1]
