"""Cost curves from 1 to 1000 machines for three models: `python benchmarks/scale.py` writes docs/scale.md.

Only some of the models or sizes are printed, and the page stays as it is.

For each model and size of cluster `shoal plan` chooses for as many streams as the cluster can use (16 a machine), and
`shoal simulate` runs the plan at the load that keeps it at about two thirds of what is predicted: open arrivals, 512
prompt and 128 output tokens. Nothing is measured: machines are described (benchmarks/unequal_thousand.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from unequal_thousand import cluster_of

from shoal.config import LaunchConfig, PlanningConfig
from shoal.errors import CapacityError
from shoal.forecast.planned_cluster import plan_cluster
from shoal.forecast.simulate import TrafficSpec, simulate

_PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
_SIZES = (1, 3, 10, 30, 100, 300, 1000)
_PROMPT_TOKENS, _OUTPUT_TOKENS = 512, 128
_STREAMS_A_MACHINE, _MOST_STREAMS = 16, 16384
_LOAD = 0.66
"""Of the predicted throughput."""
_DAY_S = 86_400.0


def _llama(**changes: object) -> Mapping[str, object]:
    return {
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
        **changes,
    }


MODELS: Mapping[str, Mapping[str, object]] = {
    "1 B": _llama(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, tie_word_embeddings=True),
    "8 B": _llama(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, tie_word_embeddings=False),
    "70 B": _llama(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        tie_word_embeddings=False,
    ),
}
"""Settings in the sizes of the Llama 3 models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One model on one cluster."""

    model: str
    num_machines: int
    num_used: int
    num_replicas: int
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p99_s: float
    cost_per_million: float | None
    planning_s: float
    simulating_s: float
    num_lost: int


def main() -> None:
    """Simulate, print and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="*", default=_SIZES)
    parser.add_argument("--requests", type=int, default=600, help="of each simulation, about")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    given = parser.parse_args()
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        for point in _points(Path(folder), given.models, given.sizes, given.requests):
            points.append(point)
            print(_row(point), file=sys.stderr, flush=True)
    if set(given.models) == set(MODELS) and set(given.sizes) == set(_SIZES):
        _PAGE.write_text("\n".join(page(points, given.requests)) + "\n")
        print(_PAGE)
    else:
        print("\n".join(page(points, given.requests)))


def _points(folder: Path, models: list[str], sizes: list[int], num_requests: int) -> Iterator[Point]:
    for name in models:
        settings = folder / f"{name.replace(' ', '-')}.json"
        settings.write_text(json.dumps(MODELS[name]))
        for size in sizes:
            cluster = folder / f"{size}.yaml"
            cluster.write_text(yaml.safe_dump(_plain(cluster_of(size))))
            try:
                yield measure(name, settings, cluster, size, num_requests)
            except CapacityError as error:
                print(f"{name} on {size}: {error}", file=sys.stderr, flush=True)


def _plain(cluster: object) -> Any:
    """As YAML takes it, without what is not said."""
    read = json.loads(msgspec.json.encode(cluster))
    read["machines"] = [
        {key: value for key, value in machine.items() if value is not None} for machine in read["machines"]
    ]
    return {key: value for key, value in read.items() if value}


def measure(name: str, settings: Path, cluster: Path, size: int, num_requests: int) -> Point:
    """Plan, then simulate at a share of what is predicted."""
    planning = PlanningConfig(
        cluster=str(cluster),
        objective="throughput",
        streams=min(_MOST_STREAMS, _STREAMS_A_MACHINE * size),
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=_OUTPUT_TOKENS,
        settings_suffice=True,
    )
    started_s = time.process_time()
    planned = plan_cluster(
        LaunchConfig(model=str(settings), split="auto", precision="int8", max_context=2048, planning=planning)
    )
    planned_s = time.process_time()
    assert planned.plan.predicted is not None
    rate = _LOAD * planned.plan.predicted.output_tokens_per_s / _OUTPUT_TOKENS
    traffic = TrafficSpec(
        text=f"poisson:{rate}",
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=_OUTPUT_TOKENS,
        days=num_requests / rate / _DAY_S,
    )
    result = simulate(planned, traffic.open())
    outcome = result.outcome
    return Point(
        model=name,
        num_machines=size,
        num_used=len(set(planned.machines)),
        num_replicas=len(planned.plan.replicas),
        tokens_per_s=rate * _OUTPUT_TOKENS,
        ttft_p50_s=outcome.ttft.p50_s,
        ttft_p99_s=outcome.ttft.p99_s,
        tpot_p99_s=outcome.tpot.p99_s,
        cost_per_million=_cost_at(planned.prices_per_hour, set(planned.machines), rate * _OUTPUT_TOKENS),
        planning_s=planned_s - started_s,
        simulating_s=time.process_time() - planned_s,
        num_lost=outcome.num_lost,
    )


def _cost_at(prices: Mapping[str, float], used: set[str], tokens_per_s: float) -> float | None:
    """Of a million output tokens at the load that is kept up."""
    return sum(prices[machine] for machine in used) / 3600 / tokens_per_s * 1e6


def _row(point: Point) -> str:
    cost = "" if point.cost_per_million is None else f"{point.cost_per_million:.2f}"
    return (
        f"| {point.model} | {point.num_machines} | {point.num_used} | {point.num_replicas} | "
        f"{point.tokens_per_s:.0f} | {point.ttft_p50_s:.2f} s | {point.ttft_p99_s:.2f} s | "
        f"{point.tpot_p99_s * 1e3:.0f} ms | {cost} | {point.planning_s:.1f} s | {point.simulating_s:.0f} s |"
    )


def page(points: list[Point], num_requests: int) -> list[str]:
    """The whole page."""
    return [
        "# From one machine to a thousand",
        "",
        "What a cluster of unequal machines reaches, and what a million output tokens cost on it, as its size grows:",
        "no machine was measured, all of it is planned and [simulated](simulate.md). `python benchmarks/scale.py`",
        "writes this page.",
        "",
        "Machines are of five kinds, from 8 cores to 64 (`benchmarks/unequal_thousand.py`: rates of the order that",
        "profiles find, about 0.04 an hour for a core, 10 Gbit/s between any two). Models have the sizes of Llama 3,",
        f"at 8 bits. Requests of {_PROMPT_TOKENS} + {_OUTPUT_TOKENS} tokens come at random, at {_LOAD:.0%} of what the",
        f"plan is predicted to reach; about {num_requests} of them are simulated for each row. Lost were",
        f"{sum(point.num_lost for point in points)}.",
        "",
        "| model | machines | used | replicas | output tokens/s | first token, p50 | p99 | per token, p99 | cost of a "
        "million | planned in | simulated in |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *map(_row, points),
        "",
        "* **Throughput grows with the machines**; cost hardly changes with their number: replicas do not help each",
        "  other, so what decides is which machines a replica is made of. Where a plan leaves machines unused, the",
        "  search has stopped at its bounds of time, below what all of them could do.",
        "* Where a row is missing, no plan holds the model.",
        "* Processor time of planning and of simulating is that of one core.",
    ]


if __name__ == "__main__":
    main()
