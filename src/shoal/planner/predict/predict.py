"""What a plan will reach: tokens/s, time to first token, time per token, and what holds it back.

The streams of a replica run as m = min(stages, streams) micro-batches. A micro-batch goes through all stages for its
prompts and for every token; each stage serves the micro-batches in turn. Hence the period after which every stream has
finished one request:

    T = max(prompts and tokens of one micro-batch through all stages and hops,
            m * (the slowest stage or hop at prompts + the slowest at tokens))

The first where the stages wait for tokens to come round, the second where one of them never waits. Prompts and tokens
count apart because micro-batches that began together prefill together. Source: SmolLM2 on 16 and 14 layers, 16 streams,
150 tokens/s measured; 156 predicted so, 169 with the slowest stage of both together (log, planner).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heapify, heapreplace

from shoal.core.generation.scheduler_config import MAX_STEP_TOKENS
from shoal.planner.predict.placement import PlacedReplica
from shoal.planner.predict.replica_times import ReplicaTimes, Setting, replica_times
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet

_ONE_BY_ONE = 16
"""Streams for each replica that are dealt out one by one in any case: measured times are not always in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of a plan under a workload."""

    output_tokens_per_s: float
    """of all replicas"""
    ttft_s: float
    """of the slowest replica: time to first token of a request that begins when another has ended"""
    tpot_s: float
    """of the slowest replica: time per output token after the first"""
    memory_bytes: tuple[int, ...]
    """of every worker, replica by replica"""
    bottleneck: str
    """what the slowest replica waits for, in words"""


def predict(
    replicas: Sequence[PlacedReplica],
    fleet: Fleet,
    workload: Workload,
    *,
    hidden_bytes: float,
    max_step_tokens: int = MAX_STEP_TOKENS,
) -> Prediction:
    """What replicas that run side by side reach.

    Args:
        replicas: of one model.
        fleet: with speeds at every precision that they use.
        workload: of all replicas together; its streams are dealt out so that the periods are as equal as they can be.
        hidden_bytes: of one row's hidden state.
        max_step_tokens: rows of a step.
    """
    setting = Setting(
        fleet=fleet,
        workload=workload,
        hidden_bytes=hidden_bytes,
        max_step_tokens=max_step_tokens,
        is_in_process=sum(len(replica.shards) for replica in replicas) == 1,
    )

    first_alike: dict[PlacedReplica, int] = {}
    alike = [first_alike.setdefault(replica, index) for index, replica in enumerate(replicas)]

    @cache
    def times_of(index: int, streams: int) -> ReplicaTimes:
        """Of the first of all alike replicas."""
        return replica_times(setting, replicas[index], streams)

    def period_of(index: int) -> Callable[[int], float]:
        return lambda streams: times_of(index, streams).period_s

    streams = deal_streams([period_of(index) for index in alike], workload.streams)
    times = [times_of(index, count) for index, count in zip(alike, streams, strict=True) if count]
    return Prediction(
        output_tokens_per_s=sum(one.num_streams * workload.output_tokens / one.period_s for one in times),
        ttft_s=max(one.ttft_s for one in times),
        tpot_s=max((one.period_s - one.ttft_s) / max(1, workload.output_tokens - 1) for one in times),
        memory_bytes=tuple(shard.memory_bytes for replica in replicas for shard in replica.shards),
        bottleneck=bottleneck(max(times, key=lambda one: one.period_s)),
    )


def deal_streams(periods: Sequence[Callable[[int], float]], num_streams: int) -> list[int]:
    """Streams of each replica: one by one to that whose period with it is shortest, then to that with the fewest.

    Very many are dealt out in parts at first, each of which is at most an equal share of what is left. So no part takes
    a replica beyond the period that all of them reach in the end: with less than a part more for each, there would be
    streams left.

    Args:
        periods: of each replica, from the number of its streams; more streams take at least as long.
        num_streams: to deal out.
    """
    if len(periods) == 1:
        return [num_streams]
    counts, left = [0] * len(periods), num_streams
    while left:
        part = max(1, left // (2 * len(periods)) - _ONE_BY_ONE)
        num_parts = len(periods) if part > 1 else left
        waiting = [(period(counts[index] + part), counts[index], index) for index, period in enumerate(periods)]
        heapify(waiting)
        for _ in range(num_parts):
            _, _, index = waiting[0]
            counts[index] += part
            heapreplace(waiting, (periods[index](counts[index] + part), counts[index], index))
        left -= num_parts * part
    return counts


def bottleneck(times: ReplicaTimes) -> str:
    """What a replica waits for, in words."""
    stage_s = [sum(pair) for pair in zip(times.prompts.stage_s, times.decode.stage_s, strict=True)]
    hop_s = [sum(pair) for pair in zip(times.prompts.hop_s, times.decode.hop_s, strict=True)]
    if len(stage_s) == 1:
        return "computing"
    if times.slowest_s < times.chain_s:
        return "links between stages" if sum(hop_s) > sum(stage_s) else "tokens coming round through all stages"
    slowest_s = max(*stage_s, *hop_s)
    if slowest_s in stage_s:
        return f"computing in stage {stage_s.index(slowest_s)}"
    return f"the link behind stage {hop_s.index(slowest_s)}"
