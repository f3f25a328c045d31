"""The predicted speed of a plan: tokens/s, time to first token, time per token, and the bottleneck.

The streams of a replica run as m = min(stages, streams) micro-batches. A micro-batch passes all stages for its prompts
and for every token; each stage serves the micro-batches in turn. Every stream finishes one request in the period

    T = max(prompts and tokens of one micro-batch through all stages and hops,
            m * (the slowest stage or hop at prompts + the slowest at tokens))

The first term holds if the stages wait for tokens to return, the second if one of them never waits. Prompts and tokens
are separate because micro-batches that began together prefill together. Source: SmolLM2 on 16 and 14 layers with 16
streams: 150 tokens/s measured, 156 predicted; 169 with one slowest stage for both (docs/log.md, planner).
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
"""The fewest streams per replica that are assigned one by one, since measured times are not always monotonic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The prediction for a plan under a workload."""

    output_tokens_per_s: float
    """Output tokens per second of all replicas together."""
    ttft_s: float
    """Time to first token in the slowest replica, for a request that begins when another has ended."""
    tpot_s: float
    """Time per output token after the first, in the slowest replica."""
    memory_bytes: tuple[int, ...]
    """Bytes of each worker, replica by replica."""
    bottleneck: str
    """What limits the slowest replica, in words."""


def predict(
    replicas: Sequence[PlacedReplica],
    fleet: Fleet,
    workload: Workload,
    *,
    hidden_bytes: float,
    max_step_tokens: int = MAX_STEP_TOKENS,
) -> Prediction:
    """Predict the speed of replicas that run side by side.

    Args:
        replicas: all replicas of one model.
        fleet: the fleet, with speeds at every precision of the replicas.
        workload: the load of all replicas together; its streams are divided so that their periods are as equal as
            possible.
        hidden_bytes: bytes of one row's hidden state.
        max_step_tokens: the most rows of a step.
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
        """Times of a replica, computed once for equal ones."""
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
    """Divide streams among replicas: each goes to the one with the shortest period including it, then with the fewest.

    Very many streams are first assigned in parts, each at most an equal share of the rest, so that no part takes a
    replica beyond the period that all of them reach in the end.

    Args:
        periods: gives the period of each replica from the number of its streams; more streams take at least as long.
        num_streams: the number of streams to divide.
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
    """What limits a replica, in words."""
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
