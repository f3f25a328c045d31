"""How fast a large cluster is simulated: a thousand unequal machines, 50 requests/s, 20 machine losses.

`python benchmarks/simulate_day.py` simulates a stretch whole, with the losses and without, from which the processor
time of a day with as many losses is extrapolated (`--hours 24`: the whole day), and then a day whose steady states are
sampled, as `shoal simulate --sample` does.
Every decision is made as a server makes it; steps in which nothing is decided are taken at once. Prints the processor
time of a simulated day, and whether a request was lost or an invariant broke (then the simulation ends with an error).

Workload: an 8 B model at 8 bits, 128 prompt and 64 output tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from report import write_result
from scale import MODELS, _plain
from unequal_thousand import cluster_of

from shoal.config import LaunchConfig, PlanningConfig
from shoal.forecast.planned_cluster import PlannedCluster, plan_cluster
from shoal.forecast.simulate import TrafficSpec, simulate
from shoal.planner.files.fault_file import DescribedFault
from shoal.sim.sampling.intervals import Interval

_RATE, _STREAMS, _DAY_S, _HOUR_S = 50.0, 256, 86_400.0, 3600.0
_TARGET_S = 300.0


def main() -> None:
    """Plan, simulate, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hours", type=float, default=0.02)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--losses", type=int, default=20)
    parser.add_argument("--sample-hours", type=float, default=24.0, help="that are sampled, see `--sample`")
    parser.add_argument("--sample", type=float, default=1.0, metavar="PERCENT")
    given = parser.parse_args()
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
    used = sorted(set(planned.machines))
    lines = [
        f"{len(used)} of {given.machines} machines used, {len(planned.plan.replicas)} replicas "
        f"(planned in {planned_s:.1f} s).",
        "",
        "Every step simulated:",
        "",
        *run(planned, used, given.hours, given.losses, None),
        "",
        f"Steady states sampled (`--sample {given.sample:g}`), every loss and return simulated whole:",
        "",
        *run(planned, used, given.sample_hours, given.losses, given.sample),
    ]
    print("\n".join(lines))
    print(write_result("simulate-day", lines, command=f"python benchmarks/simulate_day.py --hours {given.hours}"))


def run(
    planned: PlannedCluster, used: Sequence[str], hours: float, num_losses: int, percent: float | None
) -> list[str]:
    """A table of one simulation. `percent`: see `--sample`; None: nothing is skipped."""
    span_s = hours * _HOUR_S
    faults = losses(used, span_s, num_losses)
    steady_s = _steady_seconds(planned, span_s) if percent is None and span_s < _DAY_S else None
    traffic = TrafficSpec(text=f"poisson:{_RATE}", days=span_s / _DAY_S)
    sampling = None if percent is None else traffic.sampling(percent)
    started_s = time.process_time()
    simulated = simulate(planned, traffic.open(), faults=faults, sampling=sampling)
    seconds = time.process_time() - started_s
    outcome, sample = simulated.outcome, simulated.sample
    num_simulated = outcome.num_requests if sample is None else sample.num_simulated
    rows = [
        "| what | value |",
        "|---|---|",
        f"| time | {span_s:.0f} s, {outcome.num_requests} requests, {len(faults) // 2} machines lost and back |",
        f"| simulated | {1.0 if sample is None else sample.simulated_share:.1%} of it, {num_simulated} requests |",
        f"| processor time | {seconds:.1f} s ({1e3 * seconds / max(1, num_simulated):.2f} ms a simulated request) |",
    ]
    if sample is None or span_s == _DAY_S:
        rest_s, told = 0.0, "this day"
        if steady_s is not None:
            rest_s, told = steady_s * (_DAY_S / span_s - 1.0), f"a day with these losses, {steady_s:.1f} s without any"
        verdict = "reached" if seconds + rest_s <= _TARGET_S else "not reached"
        rows.append(f"| {told} | {(seconds + rest_s) / 60:.1f} min (target {_TARGET_S / 60:.0f} min: {verdict}) |")
    rows += [
        f"| requests lost | {outcome.num_lost} |",
        f"| tokens computed again | {outcome.replayed_tokens} |",
        f"| checks of all invariants, each of which held | {outcome.num_checks} |",
    ]
    for name, point, within in (
        ("first token", outcome.ttft, sample and sample.ttft),
        ("end to end", outcome.e2e, sample and sample.e2e),
    ):
        told = f"| {name}, p50 and p99 | {point.p50_s:.3f} s and {point.p99_s:.3f} s"
        if within is not None:
            told += f" ({_within(within.p50_s)} and {_within(within.p99_s)}, 95 times of 100)"
        rows.append(told + " |")
    return rows


def _steady_seconds(planned: PlannedCluster, span_s: float) -> float:
    """Processor time of so many seconds without losses, which cost as much in a day as in an hour."""
    traffic = TrafficSpec(text=f"poisson:{_RATE}", days=span_s / _DAY_S)
    started_s = time.process_time()
    simulate(planned, traffic.open())
    return time.process_time() - started_s


def losses(used: Sequence[str], span_s: float, count: int) -> list[DescribedFault]:
    """Machines that are lost at random times of the first 70 %, each for a fifth of the time."""
    rng = random.Random(0)
    faults: list[DescribedFault] = []
    for machine in rng.sample(used, min(count, len(used) // 4)):
        at_s = rng.uniform(0.0, 0.7 * span_s)
        faults.append(DescribedFault(at_s=at_s, machine=machine, kind="cable"))
        faults.append(DescribedFault(at_s=at_s + 0.2 * span_s, machine=machine, kind="return"))
    return sorted(faults, key=lambda fault: fault.at_s)


def _within(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f} s"


if __name__ == "__main__":
    main()
