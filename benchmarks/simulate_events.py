"""Simulated against real runs whose workers take exactly as long as predicted: `python benchmarks/simulate_events.py`.

The server, its HTTP, its scheduler and the load generator are real; workers wait for as long as the simulation predicts
for the very step, and compute nothing. So nothing depends on how fast or how busy this machine is, and what differs is
the simulation's own: when requests reach the scheduler, what each step holds, when clients hear of it. Requests are
compared one by one. The machine is a described one on which a token of 1.1 B parameters takes 0.2 s, next to which the
real head's milliseconds do not matter. Takes some eight minutes; `--only TEXT` runs the loads with this in their titles
and writes no file.

Two of the loads have two replicas, once of equal speed and once with the second one 10 % slower. In the simulation
equal ones stay in step with each other, while the milliseconds of a real head bring them out of step sooner or later.

Of requests that come at the same moment, as those of a closed loop do at its beginning, the real server's first step
has one or several: that is decided by which of its threads has Python's lock, and differs from run to run. All later
steps follow from it, so single requests of such a loop may be far off where its percentiles are not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from report import write_result
from simulate_error import Case, traffic_of

from shoal.bench.load import Load
from shoal.bench.load_generator import run_requests
from shoal.config import LaunchConfig, PlanningConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.forecast.planned_cluster import PlannedCluster, plan_cluster
from shoal.planner.speeds.unevenness import Unevenness
from shoal.protocol.language_messages import SampledToken, StepResult
from shoal.router.engine import Engine
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.predicted_workers import SimulatedReplicaPlan

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.model.formats.test_settings_only import write_settings
from tests.server.running_server import MODEL, run_server

_SIZES = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "vocab_size": 32000}
_MACHINES = """
machines:
  - {name: slow, count: 2, cores: 8, memory: 64G, rates: {memory_bytes_per_s: 2e10, fp32_flops_per_s: 4e11}}
link: {latency_s: 1e-4, bytes_per_s: 1.25e9}
"""
_LOADS: tuple[tuple[Case, tuple[float, ...]], ...] = (
    (Case(split="1", threads=8, clients=1, num_requests=6), (1.0,)),
    (Case(split="1", threads=8, clients=8, num_requests=40), (1.0,)),
    (Case(split="1", threads=8, rate=1.5, num_requests=40), (1.0,)),
    (Case(split="dp=2", threads=8, clients=8, num_requests=48), (1.0, 1.0)),
    (Case(split="dp=2", threads=8, clients=8, num_requests=48), (1.0, 1.1)),
)
"""Loads, and the factor by which the steps of each replica take longer than predicted."""
_TOKEN_ID = 97
"""Of every output: the test server's vocabulary is that of bytes."""


class WaitingExecutor:
    """A replica of one stage whose steps take as long as they are predicted to. Implements `router.executor.Executor`.

    A thread waits; the engine's thread reads of it through a pipe.
    """

    num_stages = 1

    def __init__(self, plan: SimulatedReplicaPlan) -> None:
        self._plan = plan
        self._waiting: deque[tuple[float, StepResult]] = deque()
        self._done: deque[StepResult] = deque()
        self._has_more = threading.Condition()
        self._free_s = 0.0
        self._is_closing = False
        self._readable, self._writable = os.pipe()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def submit(self, work: StepWork) -> None:
        seconds = self._seconds(work)
        self._free_s = max(time.monotonic(), self._free_s) + seconds
        tokens = (SampledToken(token_id=_TOKEN_ID),) * len(work.step.samples)
        result = StepResult(
            step_id=work.step.step_id, generation=work.step.generation, tokens=tokens, compute_s=(seconds,)
        )
        with self._has_more:
            self._waiting.append((self._free_s, result))
            self._has_more.notify()

    def poll(self) -> list[StepResult]:
        found = list[StepResult]()
        while self._done:
            os.read(self._readable, 1)
            found.append(self._done.popleft())
        return found

    def filenos(self) -> tuple[int, ...]:
        return (self._readable,)

    def worker_pids(self) -> tuple[int, ...]:
        return ()

    def fence(self) -> None:
        raise AssertionError("nobody is lost here")

    def kill(self) -> bool:
        return True

    def close(self) -> None:
        if self._is_closing:
            return
        with self._has_more:
            self._is_closing = True
            self._has_more.notify()
        self._thread.join()
        os.close(self._readable)
        os.close(self._writable)

    def _seconds(self, work: StepWork) -> float:
        passage = self._plan.times.passage(work.shape, samples=work.num_samples, is_alone=True)
        return self._plan.unevenness.stretch(0.0, passage.chain_s)

    def _wait(self) -> None:
        while True:
            with self._has_more:
                self._has_more.wait_for(lambda: self._waiting or self._is_closing)
                if self._is_closing:
                    return
                due_s, result = self._waiting.popleft()
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._done.append(result)
            os.write(self._writable, b".")


class ClosableEngine(Engine):
    """The engine of a server under test, which says whether it was closed."""

    closed = False

    def close(self) -> None:
        super().close()
        self.closed = True


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the loads with this in their titles, no result file"
    )
    only = parser.parse_args().only
    lines = [
        "Seconds to the first token, simulated / real (error).",
        "",
        "| load | p50 | p99 | a request, median error | worst |",
        "|---|---|---|---|---|",
    ]
    for case, factors in _LOADS:
        title = title_of(case, factors)
        if only not in title:
            continue
        with tempfile.TemporaryDirectory() as folder:
            cluster = described(Path(folder), case.split, factors)
        ours, real = simulated(case, cluster), served(case, cluster)
        errors = [abs(one / other - 1.0) for one, other in zip(ours, real, strict=True)]
        cells = [f"{one:.3f} / {other:.3f} ({one / other - 1.0:+.1%})" for one, other in both(ours, real)]
        lines.append(f"| {title} | {' | '.join(cells)} | {statistics.median(errors):.1%} | {max(errors):.1%} |")
    print("\n".join(lines))
    if not only:
        print(write_result("simulate-events", lines, command="python benchmarks/simulate_events.py"))


def title_of(case: Case, factors: Sequence[float]) -> str:
    """The case, with the difference between its replicas if there are two."""
    if len(factors) == 1:
        return case.title
    first, second = factors
    return f"{case.title}, {'equal replicas' if first == second else f'the second {second / first - 1:.0%} slower'}"


def described(folder: Path, split: str, factors: Sequence[float]) -> PlannedCluster:
    """Slow machines, and the settings of a model."""
    machines = folder / "machines.yaml"
    machines.write_text(_MACHINES)
    settings = write_settings(folder / "config.json", **_SIZES)
    planning = PlanningConfig(cluster=str(machines))
    cluster = plan_cluster(LaunchConfig(model=str(settings), split=split, planning=planning, in_process=False))
    return replace(cluster, unevenness=tuple(Unevenness([1.0], [factor]) for factor in factors))


def simulated(case: Case, cluster: PlannedCluster) -> list[float]:
    """Seconds to the first token of each request, in the order in which they were sent."""
    scenario = ClusterScenario(
        replicas=cluster.replicas(), without_worker=cluster.without_worker, traffic=traffic_of(case)
    )
    _, log = ClusterSimulation(scenario).run()
    return [ttft_s for _, ttft_s in sorted(zip(log.arrived_s, log.ttft_s, strict=True))]


def served(case: Case, cluster: PlannedCluster) -> list[float]:
    """The same over HTTP."""
    engine = ClosableEngine([(plan.config, WaitingExecutor(plan)) for plan in cluster.replicas()], time.monotonic)
    with run_server(engine) as running:  # type: ignore[arg-type]  # it runs any engine that can be closed
        outcomes, _ = run_requests(load_of_bytes(case, running.url))
    return [one.arrivals_s[0] - one.started_s for one in sorted(outcomes, key=lambda one: one.started_s)]


def load_of_bytes(case: Case, url: str) -> Load:
    """As `simulate_error.load_of`, of tokens that the test server knows."""
    return Load(
        base_url=url,
        model=MODEL,
        concurrency=case.clients,
        request_rate=case.rate,
        num_prompts=case.num_requests,
        prompt_tokens=128,
        output_tokens=64,
        token_id_range=(1, 200),
    )


def both(ours: Sequence[float], real: Sequence[float]) -> list[tuple[float, float]]:
    """Medians, and the 99th percentiles."""
    return [
        (statistics.median(ours), statistics.median(real)),
        (statistics.quantiles(ours, n=100)[-1], statistics.quantiles(real, n=100)[-1]),
    ]


if __name__ == "__main__":
    main()
