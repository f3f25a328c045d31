"""Processor time of `shoal plan` for a model of 70 B parameters and 80 layers on described machines.

`python benchmarks/planner_large_models.py`; `--rounds 3` is the number of runs of each case. It writes a config.json
and the cluster files itself and starts the command as a user would. User and system time are measured, not the time
on the wall, so that other work on the machine matters less; what a process takes to import the same modules is
measured beside it and taken off in the last column.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from report import write_result

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_GB_PER_S = (60, 90, 120, 45, 200, 75, 300, 150)
_TFLOPS_PER_S = (0.6, 0.9, 1.4, 0.4, 2.5, 0.8, 3.5, 1.2)
_ROOMY_GB = (64, 96, 128, 48, 192, 80, 256, 112)
"""The model fits into some machines as a whole, at 4 bits"""
_TIGHT_GB = (11, 14, 18, 9, 24, 20, 64, 28)
"""... into none of the first five, and memory decides on the shares of their tensor groups"""
_SHOAL = "import sys; from shoal.cli.main import main; sys.exit(main())"
_IMPORTS = "import shoal.cli.plan, shoal.launch.language.planning, shoal.launch.language.auto_plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A cluster and a load."""

    name: str
    counts: tuple[int, ...]
    """machines of each class"""
    memory_gb: tuple[int, ...]
    streams: int
    goal_s: float


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    imports_s = _median_s([sys.executable, "-c", _IMPORTS], given.rounds)
    lines = [
        "| machines | streams | goal, s | processor time, s | without imports, s |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_CONFIG))
        for case in _cases():
            took_s = _median_s(_command(case, Path(folder)), given.rounds)
            lines.append(
                f"| {case.name} | {case.streams} | {case.goal_s:g} | {took_s:.2f} | {took_s - imports_s:.2f} |"
            )
            print(lines[-1], flush=True)
    lines += ["", f"Medians of {given.rounds} runs, user and system time. Imports alone: {imports_s:.2f} s."]
    command = f"python benchmarks/planner_large_models.py --rounds {given.rounds}"
    print(write_result("planner-large-models", lines, command=command))


def _cases() -> Iterator[Case]:
    for streams in (1, 16, 64):
        for memory, memory_gb in (("roomy", _ROOMY_GB), ("tight", _TIGHT_GB)):
            yield Case(name=f"5 unlike, {memory}", counts=(1,) * 5, memory_gb=memory_gb, streams=streams, goal_s=1)
            yield Case(name=f"8 unlike, {memory}", counts=(1,) * 8, memory_gb=memory_gb, streams=streams, goal_s=2)
    for streams in (16, 400):
        yield Case(name="400 alike", counts=(400,), memory_gb=_ROOMY_GB, streams=streams, goal_s=20)
        yield Case(name="400 in 8 classes", counts=(50,) * 8, memory_gb=_ROOMY_GB, streams=streams, goal_s=20)
        yield Case(name="1000 in 8 classes", counts=(125,) * 8, memory_gb=_ROOMY_GB, streams=streams, goal_s=20)


def _command(case: Case, folder: Path) -> list[str]:
    """Of a model at 4 bits. Writes the cluster file."""
    cluster = folder / "cluster.yaml"
    cluster.write_text(_cluster_file(case))
    options = ["--cluster", str(cluster), "--precision", "int4", "--streams", str(case.streams)]
    return [sys.executable, "-c", _SHOAL, "plan", str(folder), *options]


def _cluster_file(case: Case) -> str:
    machines = [
        {
            "name": f"m{index}",
            "count": count,
            "cores": 8 * (index + 1),
            "memory": f"{case.memory_gb[index]}G",
            "rates": {
                "memory_bytes_per_s": _GB_PER_S[index] * 1e9,
                "fp32_flops_per_s": _TFLOPS_PER_S[index] * 1e12,
            },
        }
        for index, count in enumerate(case.counts)
    ]
    return json.dumps({"machines": machines, "link": {"latency_s": 1e-4, "bytes_per_s": 1.25e9}})  # JSON is YAML


def _median_s(command: Sequence[str], num_rounds: int) -> float:
    """Processor seconds of a command and its children."""
    took_s: list[float] = []
    for _ in range(num_rounds):
        before_s = _children_s()
        subprocess.run(command, check=True, capture_output=True)
        took_s.append(_children_s() - before_s)
    return statistics.median(took_s)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
