"""The planner's search: right against brute force, how long it computes, and how far below its bound it stays.

`python benchmarks/planner_search.py`; `--clusters 500 --rounds 5` change the run. Clusters are random but seeded: one
to six workers in mixed classes, up to twelve blocks, unequal links, some of them missing, and memory for a part of
the model. Of each, one replica is compared with all orders, groups and cuts for 1, 3, 8 and 40 streams, and sets of
replicas with all partitions for 4 streams. Shares of tensor groups have clusters of their own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from report import write_result

sys.path.append(str(Path(__file__).parents[1]))  # the tests know random fleets and brute force already
from shoal.planner.search.problem import ReplicaProblem
from shoal.planner.search.replica import best_replica
from shoal.planner.search.replicas import best_replicas, counts_to_try
from shoal.planner.search.shares.best import Member, best_group_shares
from tests.planner.search.brute_force import best_periods, best_shares, best_total
from tests.planner.search.random_fleets import mixed_fleet, small_problem

_STREAMS = (1, 3, 8, 40)
_REPLICA_STREAMS = 4


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    lines = [*_time_table(given.rounds), "", *_brute_force_table(given.clusters)]
    print("\n".join(lines))
    command = f"python benchmarks/planner_search.py --clusters {given.clusters} --rounds {given.rounds}"
    print(write_result("planner-search", lines, command=command))


def _brute_force_table(num_clusters: int) -> list[str]:
    """How many random clusters are solved exactly as by trying everything."""
    right = {"one replica": 0, "sets of replicas": 0, "shares of a group": 0}
    for seed in range(num_clusters):
        problem = small_problem(seed)
        right["one replica"] += all(_replica_is_best(problem, streams) for streams in _STREAMS)
        right["sets of replicas"] += _replicas_are_best(problem)
        right["shares of a group"] += _shares_are_best(seed)
        if seed % 50 == 49:
            print(f"{seed + 1} clusters: {right}", file=sys.stderr, flush=True)
    rows = [f"| {what} | {num_clusters} of {num_clusters} | {count} |" for what, count in right.items()]
    return ["| optimal against brute force | target | reached |", "|---|---|---|", *rows]


def _replica_is_best(problem: ReplicaProblem, num_streams: int) -> bool:
    least_s = min((period_s for period_s, _ in best_periods(problem, num_streams)[0].values()), default=np.inf)
    found = best_replica(problem, num_streams)
    return least_s == np.inf if found is None else _same(found.period_s, least_s)


def _replicas_are_best(problem: ReplicaProblem) -> bool:
    stream_counts = range(1, _REPLICA_STREAMS + 1)
    plan = best_replicas(problem, _REPLICA_STREAMS, stream_counts=stream_counts)
    best = best_total(problem, _REPLICA_STREAMS, stream_counts)
    return _same(plan.streams_per_s, best) and _same(plan.bound_streams_per_s, best)


def _shares_are_best(seed: int) -> bool:
    """One to three members, up to six heads, eight columns and five pieces of vocabulary."""
    rng = np.random.default_rng(seed)
    num_members = int(rng.integers(1, 4))
    totals = (int(rng.integers(0, 7)), int(rng.integers(1, 9)), int(rng.choice([0, 0, 3, 5])))
    costs = [tuple(rng.choice([0.5, 1, 2, 3.7], 6) * rng.uniform(0.5, 1.5, 6)) for _ in range(num_members)]
    sizes = [tuple(int(size) for size in rng.integers(1, [6, 6, 6, 60])) for _ in range(num_members)]
    members = [
        Member(
            head_s=cost[0],
            head_fixed_s=cost[1],
            column_s=cost[2],
            column_fixed_s=cost[3],
            vocabulary_s=cost[4],
            vocabulary_fixed_s=cost[5],
            head_bytes=size[0],
            column_bytes=size[1],
            vocabulary_bytes=size[2],
            memory_bytes=size[3],
        )
        for cost, size in zip(costs, sizes, strict=True)
    ]
    found = best_group_shares(members, num_heads=totals[0], num_columns=totals[1], num_vocabulary=totals[2])
    best = best_shares(costs, sizes, totals)
    return best == np.inf if found is None else _same(found.seconds, best)


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * abs(other)


def _time_table(num_rounds: int) -> list[str]:
    """Seconds of processor time; 80 blocks, eight classes, groups of one or two workers."""
    lines = [
        "| workers | search | streams | target, s | processor time, median, s | lowest to highest | gap to the bound |",
        "|---|---|---|---|---|---|---|",
    ]
    for num_workers, target_s in ((8, 0.2), (64, 2.0), (1000, 30.0)):
        problem = mixed_fleet([num_workers // 8] * 8)
        for num_streams in (num_workers * 2, num_workers * 8):
            for rows in counts_to_try(num_streams):
                problem.times(rows)  # the cost model's part
            took_s = _seconds(lambda p=problem, n=num_streams: best_replicas(p, n), num_rounds)
            gap = f"{best_replicas(problem, num_streams).gap:.2%}"
            lines.append(_row(num_workers, "replicas", num_streams, target_s, took_s, gap))
        took_s = _seconds(lambda p=problem, n=num_workers * 2: best_replica(p, n), num_rounds)
        lines.append(_row(num_workers, "one replica", num_workers * 2, target_s, took_s, "-"))
    return [*lines, "", "The gap's target, for 64 workers: at most 3 %."]


def _seconds(search: Callable[[], object], num_rounds: int) -> list[float]:
    took_s: list[float] = []
    for _ in range(num_rounds):
        begin_s = time.process_time()
        search()
        took_s.append(time.process_time() - begin_s)
    return took_s


def _row(num_workers: int, what: str, num_streams: int, target_s: float, took_s: Sequence[float], gap: str) -> str:
    span = f"{min(took_s):.3f} to {max(took_s):.3f}"
    median_s = statistics.median(took_s)
    return f"| {num_workers} | {what} | {num_streams} | {target_s} | {median_s:.3f} | {span} | {gap} |"


if __name__ == "__main__":
    main()
