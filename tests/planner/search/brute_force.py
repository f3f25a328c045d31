"""Every plan there is, tried one by one: all orders of all groups, all cuts, all ways to share workers and streams.

Shares no code with the search. Only for fleets of a few workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, product

import numpy as np

from shoal.planner.search.problem import ReplicaProblem

Counts = tuple[int, ...]
Figures = list[tuple[float, float]]
"""sum, and micro-batches times the longest stage or hop"""


def group_sequences(problem: ReplicaProblem) -> Iterator[tuple[int, ...]]:
    """All groups in all orders for which there are workers, blocks and leave."""
    most = problem.num_blocks if problem.max_stages is None else min(problem.num_blocks, problem.max_stages)
    waiting: list[tuple[tuple[int, ...], Counts]] = [((), problem.counts)]
    while waiting:
        sequence, left = waiting.pop()
        if sequence:
            yield sequence
        if len(sequence) == most:
            continue
        for group, uses in enumerate(problem.groups):
            rest = tuple(have - use for have, use in zip(left, uses, strict=True))
            if min(rest) >= 0 and (problem.usable is None or problem.usable[group]):
                waiting.append(((*sequence, group), rest))


def best_periods(problem: ReplicaProblem, num_streams: int) -> tuple[dict[Counts, tuple[float, int]], Figures]:
    """For every count of used workers: the least period, the fewest stages that have it; and all pipelines' figures."""
    best: dict[Counts, tuple[float, int]] = {}
    figures: Figures = []
    all_cuts = [_cuts(problem.num_blocks, num_stages) for num_stages in range(1, problem.num_blocks + 1)]
    for sequence in group_sequences(problem):
        num_stages = len(sequence)
        num_micro_batches = num_stages if num_stages < num_streams else num_streams
        times = problem.times((num_streams + num_micro_batches - 1) // num_micro_batches)
        cuts = all_cuts[num_stages - 1]
        stages = [times.work_s[group, cuts[:, i], cuts[:, i + 1]] for i, group in enumerate(sequence)]
        hops = [times.hop_s[one, other] for one, other in pairwise(sequence)]
        sums = sum(stages) + sum(hops)
        rounds = num_micro_batches * np.maximum(np.max(stages, axis=0), max(hops, default=0.0))
        figures.extend(_least(sums, rounds))
        used = tuple(sum(problem.groups[group][c] for group in sequence) for c in range(len(problem.counts)))
        period = float(np.min(np.maximum(sums, rounds)))
        old, old_stages = best.get(used, (float("inf"), 0))
        if period < old * (1 - 1e-9) or (period <= old * (1 + 1e-9) and num_stages < old_stages):
            best[used] = (period, num_stages)
    return best, figures


def front_of(figures: Figures) -> Figures:
    """Those that no other beats in both figures; what differs in the tenth digit is the same."""
    finite = [pair for pair in figures if pair[0] < float("inf")]
    front: Figures = []
    for sum_s in sorted({sum_s for sum_s, _ in finite}):
        round_s = min(other[1] for other in finite if other[0] <= sum_s * (1 + 1e-9))
        if not front or round_s < front[-1][1] * (1 - 1e-9):
            front.append((sum_s, round_s))
    return front


def best_total(problem: ReplicaProblem, num_streams: int, stream_counts: Sequence[int]) -> float:
    """Most streams per second of any set of replicas that together have no more workers and streams than there are."""
    rates: dict[tuple[Counts, int], float] = {}
    for streams in stream_counts:
        for used, (period, _) in best_periods(problem, streams)[0].items():
            if period < float("inf"):
                rates[used, streams] = streams / period
    known: dict[tuple[Counts, int, int], float] = {}
    columns = sorted(rates)

    def most(left: Counts, streams_left: int, first: int) -> float:
        """Using only columns from `first` on, so that no set of replicas is tried twice."""
        key = (left, streams_left, first)
        if key not in known:
            best = 0.0
            for index in range(first, len(columns)):
                used, streams = columns[index]
                rest = tuple(have - use for have, use in zip(left, used, strict=True))
                if streams <= streams_left and min(rest) >= 0:
                    best = max(best, rates[columns[index]] + most(rest, streams_left - streams, index))
            known[key] = best
        return known[key]

    return most(problem.counts, num_streams, 0)


def best_shares(
    costs: Sequence[tuple[float, float, float, float, float, float]],
    sizes: Sequence[tuple[int, int, int, int]],
    totals: tuple[int, int, int],
) -> float:
    """Least sum of the three slowest times over all ways to deal heads, columns and vocabulary out; infinite: none.

    Args:
        costs: of each member: seconds for a head and for having any; a column and having any; vocabulary likewise.
        sizes: of each member: bytes for a head, a column, a piece of vocabulary; memory.
        totals: heads, columns, pieces of vocabulary.
    """
    num_heads, num_columns, num_vocabulary = totals
    best = float("inf")
    for heads in _dealt(num_heads, len(costs), 0):
        for columns in _dealt(num_columns, len(costs), 1):
            for vocabulary in _dealt(num_vocabulary, len(costs), 1 if num_vocabulary else 0):
                given = list(zip(heads, columns, vocabulary, strict=True))
                if any(h * s[0] + c * s[1] + v * s[2] > s[3] for (h, c, v), s in zip(given, sizes, strict=True)):
                    continue
                parts = [
                    [each * count + fixed if count else 0.0 for (each, fixed), count in zip(pairs, row, strict=True)]
                    for pairs, row in (
                        ([(cost[0], cost[1]) for cost in costs], heads),
                        ([(cost[2], cost[3]) for cost in costs], columns),
                        ([(cost[4], cost[5]) for cost in costs], vocabulary),
                    )
                ]
                best = min(best, sum(max(part) for part in parts))
    return best


def _cuts(num_blocks: int, num_stages: int) -> np.ndarray:
    inner = list(combinations(range(1, num_blocks), num_stages - 1))
    return np.array([(0, *cuts, num_blocks) for cuts in inner])


def _least(sums: np.ndarray, rounds: np.ndarray) -> Figures:
    """Drop what is beaten within one sequence: there are too many cuts to keep them all."""
    order = np.lexsort((rounds, sums))
    sums, rounds = sums[order], rounds[order]
    better = np.r_[True, rounds[1:] < np.minimum.accumulate(rounds)[:-1]]
    return list(zip(sums[better].tolist(), rounds[better].tolist(), strict=True))


def _dealt(total: int, num_members: int, at_least: int) -> list[tuple[int, ...]]:
    every = product(range(at_least, total + 1), repeat=num_members)
    return [counts for counts in every if sum(counts) == total]
