"""ONNX language models over a plain loop with ONNX Runtime: `MODEL=folder python benchmarks/onnx_language.py`.

MODEL is a folder with `model.onnx` (past keys and values, as optimum or onnxruntime-genai write them), configuration
and tokenizer. The loop is what a program would write by hand: one session, greedy, the presents of a run are the
past of the next, THREADS threads. Shoal answers one stream in the same way, then STREAMS at once, through `shoal.LLM`.
All write TOKENS tokens after a prompt of PROMPT tokens, in turn, ROUNDS times; the tokens of the lone stream must be
those of the loop.

TOKENS=64, PROMPT=64, STREAMS=8, THREADS=2 and ROUNDS=7 change the run.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import command_line, write_result

import shoal
from shoal.model.language_graph.form import IDS, MASK, POSITIONS, USES_CACHE

NUM_TOKENS = int(os.environ.get("TOKENS", "64"))
NUM_PROMPT = int(os.environ.get("PROMPT", "64"))
STREAMS = int(os.environ.get("STREAMS", "8"))
THREADS = int(os.environ.get("THREADS", "2"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))
_VARIABLES = ("MODEL", "TOKENS", "PROMPT", "STREAMS", "THREADS", "ROUNDS")
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_IDS = (5, 250)
"""of prompts: words that every vocabulary has"""
_PLAIN, _ONE, _MANY = "plain loop", "Shoal, 1 stream", f"Shoal, {STREAMS} streams"


class PlainLoop:
    """Greedy tokens from one session."""

    def __init__(self, file: Path, sizes: tuple[int, int]) -> None:
        """`sizes`: heads of keys and values, and numbers of each, which graphs need not say."""
        self._sizes = sizes
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._inputs = {one.name: one for one in self._session.get_inputs()}
        self._outputs = [one.name for one in self._session.get_outputs()]

    def tokens(self, prompt: list[int]) -> list[int]:
        """NUM_TOKENS of them."""
        past = {name: self._empty(one) for name, one in self._inputs.items() if name.startswith("past")}
        ids, told = prompt, list[int]()
        while len(told) < NUM_TOKENS:
            num_known = len(prompt) + len(told) - len(ids)
            outputs = dict(zip(self._outputs, self._session.run(None, self._feeds(ids, num_known, past)), strict=True))
            told.append(int(outputs["logits"][0, -1].argmax()))
            past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
            ids = told[-1:]
        return told

    def _feeds(self, ids: list[int], num_known: int, past: dict[str, Any]) -> dict[str, Any]:
        feeds = {
            IDS: np.array([ids], np.int64),
            MASK: np.ones((1, num_known + len(ids)), np.int64),
            POSITIONS: np.arange(num_known, num_known + len(ids), dtype=np.int64)[np.newaxis],
            USES_CACHE: np.array([num_known > 0]),
        }
        return {**{name: feed for name, feed in feeds.items() if name in self._inputs}, **past}

    def _empty(self, one: Any) -> np.ndarray:
        num_heads, dim = self._sizes
        return np.empty((1, num_heads, 0, dim), _DTYPES[one.type])


def cache_sizes(folder: Path) -> tuple[int, int]:
    """Of the keys of a layer, by whichever configuration there is."""
    if (folder / "genai_config.json").is_file():
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        return decoder["num_key_value_heads"], decoder["head_size"]
    config = json.loads((folder / "config.json").read_text())
    num_heads = config["num_attention_heads"]
    return config.get("num_key_value_heads", num_heads), config.get("head_dim") or config["hidden_size"] // num_heads


def main() -> None:
    """Measure, print and write the result file."""
    folder = Path(os.environ["MODEL"])
    file = next(one for one in (folder / "model.onnx", folder / "onnx" / "model.onnx") if one.is_file())
    loop = PlainLoop(file, cache_sizes(folder))
    rng = np.random.default_rng(0)
    prompts = rng.integers(*_IDS, (STREAMS, NUM_PROMPT)).tolist()
    options = {"max_tokens": NUM_TOKENS, "temperature": 0.0, "ignore_eos": True}
    with shoal.LLM(str(folder), split="1", threads=THREADS) as llm:
        answer = llm.generate([prompts[0]], **options)[0]
        if list(answer.token_ids) != loop.tokens(prompts[0]):
            print("the tokens differ: a near tie, or a fault")

        def rate(prompts: list[list[int]] | None) -> float:
            started_s = time.perf_counter()
            if prompts is None:
                loop.tokens(one)
            else:
                llm.generate(prompts, **options)
            return NUM_TOKENS * (1 if prompts is None else len(prompts)) / (time.perf_counter() - started_s)

        def fresh(count: int) -> list[list[int]]:
            """Prompts that no cache knows."""
            return rng.integers(*_IDS, (count, NUM_PROMPT)).tolist()

        one = prompts[0]
        contenders = {_PLAIN: lambda: rate(None), _ONE: lambda: rate(fresh(1)), _MANY: lambda: rate(fresh(STREAMS))}
        samples = measure_rounds(contenders, ROUNDS, "tokens/s")
    targets = [
        Target(what=f"tokens/s over the loop, {name}", contender=name, reference=_PLAIN, at_least=at_least)
        for name, at_least in ((_ONE, 1.0), (_MANY, None))
    ]
    lines = [*sample_table(samples, "tokens/s", 1), "", *ratio_table(samples, targets)]
    print("\n".join(lines))
    print(write_result("onnx-language", lines, command=command_line(__file__, *_VARIABLES)))


if __name__ == "__main__":
    main()
