"""The choice of a replica as it reads best: a finish for each replica, and the earliest of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from shoal.core.speed.routing import OUTPUT_TOKENS, ReplicaLoad, ReplicaSpeed
from shoal.core.speed.routing_table import RoutingTable

ALIKE, TYPICAL_ROWS = 1.25, 8


def choose_replica(
    loads: Sequence[ReplicaLoad],
    *,
    among: Sequence[int] = (),
    prompt_tokens: int = 0,
    output_tokens: int = OUTPUT_TOKENS,
    cached_tokens: Sequence[int] = (),
    table: RoutingTable | None = None,
) -> int:
    """The index that both ways choose; equal ones: the lowest.

    `among`: those that may be chosen; empty: all. `table`: one that knows other loads of these replicas, or of fewer.
    """
    cached = cached_tokens or [0] * len(loads)
    among = among or range(len(loads))
    table = table or RoutingTable()
    for index, load in enumerate(loads):
        table.note(index, load)
    chosen = table.choose(
        np.array(among, np.intp),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cached_tokens={index: number for index, number in enumerate(cached) if number},
    )
    assert chosen == _plainly(loads, among, prompt_tokens, output_tokens, cached)
    return chosen


def scaled(speed: ReplicaSpeed, factor: float) -> ReplicaSpeed:
    """Of a replica that takes `factor` times as long."""
    return ReplicaSpeed(
        prompt_token_s=speed.prompt_token_s * factor,
        output_step_s=speed.output_step_s * factor,
        output_row_s=speed.output_row_s * factor,
    )


def _plainly(
    loads: Sequence[ReplicaLoad], among: Sequence[int], prompt_tokens: int, output_tokens: int, cached: Sequence[int]
) -> int:
    speeds = dict(zip(among, _comparable([loads[index].speed for index in among]), strict=True))

    def finish_s(index: int) -> float:
        load, speed = loads[index], speeds[index]
        num_cached = 0 if load.is_slow or load.is_overloaded else cached[index]
        prompts_s = (load.prefill_tokens + prompt_tokens - num_cached) * speed.prompt_token_s
        others_s = load.num_decoding * OUTPUT_TOKENS * speed.output_row_s
        own_s = min(output_tokens, OUTPUT_TOKENS) * (speed.output_step_s + speed.output_row_s)
        return prompts_s + others_s + own_s

    return min(among, key=finish_s)


def _comparable(speeds: Sequence[ReplicaSpeed | None]) -> list[ReplicaSpeed]:
    known = [speed for speed in speeds if speed is not None]
    fastest = min(known, key=_typical_s, default=ReplicaSpeed.from_prompts(1.0))
    levelled = [speed or fastest for speed in speeds]
    order = sorted(range(len(levelled)), key=lambda index: _typical_s(levelled[index]))
    while order:
        limit_s = ALIKE * _typical_s(levelled[order[0]])
        alike = [index for index in order if _typical_s(levelled[index]) <= limit_s]
        mean = _mean([levelled[index] for index in alike])
        for index in alike:
            levelled[index] = mean
        order = order[len(alike) :]
    return levelled


def _mean(speeds: Sequence[ReplicaSpeed]) -> ReplicaSpeed:
    if len(speeds) == 1:
        return speeds[0]
    return ReplicaSpeed(
        prompt_token_s=fmean(speed.prompt_token_s for speed in speeds),
        output_step_s=fmean(speed.output_step_s for speed in speeds),
        output_row_s=fmean(speed.output_row_s for speed in speeds),
    )


def _typical_s(speed: ReplicaSpeed) -> float:
    return speed.prompt_token_s + speed.output_step_s + speed.output_row_s * TYPICAL_ROWS
