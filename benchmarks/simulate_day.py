"""How fast a large cluster is simulated: a thousand unequal machines, 50 requests/s, 20 machine losses.

`python benchmarks/simulate_day.py`; `--hours 24` is the whole day, the default is a stretch of it from which the
processor time of a day is extrapolated. Every decision is made as a server makes it; steps in which nothing is decided
are taken at once. Prints the processor time of a simulated day, and whether a request was lost or an invariant broke
(then the simulation ends with an error).

Workload: an 8 B model at 8 bits, 128 prompt and 64 output tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import yaml
from report import write_result
from scale import MODELS, _plain
from unequal_thousand import cluster_of

from shoal.config import LaunchConfig, PlanningConfig
from shoal.forecast.planned_cluster import plan_cluster
from shoal.forecast.simulate import TrafficSpec, simulate
from shoal.planner.files.fault_file import DescribedFault

_RATE, _STREAMS, _DAY_S, _HOUR_S = 50.0, 256, 86_400.0, 3600.0
_TARGET_S = 300.0


def main() -> None:
    """Plan, simulate, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=0.02)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--losses", type=int, default=20)
    given = parser.parse_args()
    span_s = given.hours * _HOUR_S
    with tempfile.TemporaryDirectory() as folder:
        settings, cluster = Path(folder) / "config.json", Path(folder) / "cluster.yaml"
        settings.write_text(json.dumps(MODELS["8 B"]))
        cluster.write_text(yaml.safe_dump(_plain(cluster_of(given.machines))))
        planning = PlanningConfig(cluster=str(cluster), objective="throughput", streams=_STREAMS, settings_suffice=True)
        started_s = time.process_time()
        planned = plan_cluster(
            LaunchConfig(model=str(settings), split="auto", precision="int8", max_context=2048, planning=planning)
        )
    planned_s = time.process_time() - started_s
    rng = random.Random(0)
    used = sorted(set(planned.machines))
    faults: list[DescribedFault] = []
    for machine in rng.sample(used, min(given.losses, len(used) // 4)):
        at_s = rng.uniform(0.0, 0.7 * span_s)
        faults.append(DescribedFault(at_s=at_s, machine=machine, kind="cable"))
        faults.append(DescribedFault(at_s=at_s + 0.2 * span_s, machine=machine, kind="return"))
    faults.sort(key=lambda fault: fault.at_s)
    started_s = time.process_time()
    traffic = TrafficSpec(text=f"poisson:{_RATE}", days=span_s / _DAY_S)
    outcome = simulate(planned, traffic.open(), faults=faults).outcome
    seconds = time.process_time() - started_s
    a_day_s = seconds * _DAY_S / span_s
    lines = [
        f"{len(used)} of {given.machines} machines used, {len(planned.plan.replicas)} replicas "
        f"(planned in {planned_s:.1f} s).",
        "",
        "| what | value |",
        "|---|---|",
        f"| simulated | {span_s:.0f} s, {outcome.num_requests} requests, {len(faults) // 2} machines lost and back |",
        f"| processor time | {seconds:.1f} s ({1e3 * seconds / max(1, outcome.num_requests):.2f} ms a request) |",
        f"| of a day at that pace | {a_day_s / 60:.0f} min (target {_TARGET_S / 60:.0f} min: "
        f"{'reached' if a_day_s <= _TARGET_S else 'not reached'}) |",
        f"| requests lost | {outcome.num_lost} |",
        f"| tokens computed again | {outcome.replayed_tokens} |",
        f"| checks of all invariants, each of which held | {outcome.num_checks} |",
    ]
    print("\n".join(lines))
    print(write_result("simulate-day", lines, command=f"python benchmarks/simulate_day.py --hours {given.hours}"))


if __name__ == "__main__":
    main()
