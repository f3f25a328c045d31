"""Shoal beside vLLM's CPU build: 32 streams end to end over HTTP, fp32, 128 prompt and 64 output tokens.

VLLM=/path/to/vllm MODEL=folder python benchmarks/against_vllm.py

MODEL is a Hugging Face directory, which both read. Each round starts each server once, loads it, and ends it.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager

from processes import SHOAL, free_port, running, shoal_json
from report import write_result

_STREAMS = 32
_TARGET = 1.2


def main() -> None:
    """Measure, print, write the result file."""
    model, vllm, rounds = os.environ["MODEL"], os.environ["VLLM"], int(os.environ.get("ROUNDS", "3"))
    contenders: dict[str, Callable[[int], AbstractContextManager[None]]] = {
        **{f"shoal {split}": lambda port, split=split: _shoal(model, split, port) for split in ("1", "dp=2", "pp=2")},
        "vllm": lambda port: _vllm(vllm, model, port),
    }
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for name, start in contenders.items():
            port = free_port()
            with start(port):
                samples[name].append(_load(f"http://127.0.0.1:{port}"))
            print(f"round {number} of {rounds}: {name}: {samples[name][-1]:.1f} tokens/s", file=sys.stderr, flush=True)
    lines = _table(samples)
    print("\n".join(lines))
    print(write_result("vllm", lines, command=f"VLLM=... MODEL=... ROUNDS={rounds} python benchmarks/against_vllm.py"))


def _shoal(model: str, split: str, port: int) -> AbstractContextManager[None]:
    command = [*SHOAL, "serve", model, "--split", split, "--port", str(port), "--name", "model"]
    return running(command, health_url=f"http://127.0.0.1:{port}/health")


def _vllm(vllm: str, model: str, port: int) -> AbstractContextManager[None]:
    command = [vllm, "serve", model, "--dtype", "float32", "--max-model-len", "512", "--port", str(port)]
    return running([*command, "--served-model-name", "model"], health_url=f"http://127.0.0.1:{port}/health")


def _load(base_url: str) -> float:
    """Output tokens/s of twice as many requests as streams."""
    streams = ("--concurrency", str(_STREAMS), "--num-prompts", str(2 * _STREAMS))
    tokens = ("--prompt-tokens", "128", "--output-tokens", "64")
    return shoal_json("bench", "serve", "--base-url", base_url, "--model", "model", *streams, *tokens)["runs"][0][
        "output_tokens_per_s"
    ]


def _table(samples: dict[str, list[float]]) -> list[str]:
    medians = {name: statistics.median(values) for name, values in samples.items()}
    best = max((name for name in medians if name != "vllm"), key=medians.__getitem__)
    lines = ["| server | output tokens/s (median) | rounds |", "|---|---|---|"]
    for name, values in samples.items():
        lines.append(f"| {name} | {medians[name]:.1f} | {', '.join(f'{value:.0f}' for value in values)} |")
    ratio = medians[best] / medians["vllm"]
    return [*lines, "", f"Best split ({best}) over vLLM: {ratio:.2f}, target at least {_TARGET}."]


if __name__ == "__main__":
    main()
