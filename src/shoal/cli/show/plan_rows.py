"""The rows of a plan's table: a worker each or, of a large plan, as many alike workers as there are in one row."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from shoal.core.plan.language import Plan, ShardPlan, StagePlan
from shoal.protocol.stage_config import ShardPart

MOST_ROWS = 24
"""Workers that have a row each. Source: a judgment, about what a screen of text holds."""
_MOST_RANGES = 3
"""Of numbers that are written out."""
_MB = 1e6
_NUMBERED = re.compile(r"(.+)-\d+")
"""Machines of one entry of a cluster file are told apart by a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One row, as text."""

    worker: str
    layers: str
    precision: str
    kv_heads: str
    columns: str
    experts: str
    vocabulary: str
    threads: str
    cores: str
    weights: str
    kv: str
    process: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    replica: int
    stage_index: int
    rank: int
    stage: StagePlan
    shard: ShardPlan


def plan_rows(plan: Plan, most_rows: int = MOST_ROWS) -> list[PlanRow]:
    """Every worker of a plan, in order; of a plan with more than `most_rows`, alike workers together.

    Alike are workers at the same places of alike replicas, and of alike stages of one replica but for the first and the
    last: as many layers, the same precision, parts of the same sizes, machines of one class. Their weights may differ,
    where a file's layers do.
    """
    groups: dict[Hashable, list[_Worker]] = {}
    for worker in _workers(plan):
        place = (worker.replica, worker.stage_index, worker.rank)
        groups.setdefault(place if plan.num_workers <= most_rows else _kind(plan, worker), []).append(worker)
    return [_row(alike) for alike in groups.values()]


def brief_split(split: str, num_workers: int, most_rows: int = MOST_ROWS) -> str:
    """The split of a plan; of a large one, alike replicas that follow each other are counted."""
    if num_workers <= most_rows:
        return split
    counted = [(text, len(list(alike))) for text, alike in groupby(split.split(" + "))]
    return " + ".join(text if count == 1 else f"{count} x {text}" for text, count in counted)


def _workers(plan: Plan) -> Iterator[_Worker]:
    for r, replica in enumerate(plan.replicas):
        for s, stage in enumerate(replica.stages):
            for rank, shard in enumerate(stage.shards):
                yield _Worker(replica=r, stage_index=s, rank=rank, stage=stage, shard=shard)


def _kind(plan: Plan, worker: _Worker) -> Hashable:
    """The same for alike workers. A replica's first stage has the embedding and its last one the head."""
    replica = plan.replicas[worker.replica]
    stages = tuple(_stage_kind(stage) for stage in replica.stages)
    is_first, is_last = worker.stage_index == 0, worker.stage_index == len(stages) - 1
    return stages, is_first, is_last, stages[worker.stage_index], _shard_kind(worker.shard)


def _stage_kind(stage: StagePlan) -> Hashable:
    return stage.num_layers, stage.precision, tuple(map(_shard_kind, stage.shards))


def _shard_kind(shard: ShardPlan) -> Hashable:
    sizes = tuple(last - first for first, last in _spans(shard.part))
    return (
        sizes,
        shard.part.experts,
        shard.threads,
        shard.cpu_quota,
        shard.device,
        shard.machine and _class_of(shard.machine),
    )


def _row(workers: Sequence[_Worker]) -> PlanRow:
    first, shards = workers[0], [worker.shard for worker in workers]
    is_sharded = len(first.stage.shards) > 1
    name = f"{_numbered('replica', workers, lambda one: one.replica)} "
    name += _numbered("stage", workers, lambda one: one.stage_index)
    name += f" {_numbered('shard', workers, lambda one: one.rank)}" if is_sharded else ""
    kv_heads, columns, vocabulary = zip(*(_spans(shard.part) for shard in shards), strict=True)
    return PlanRow(
        worker=name,
        layers=_spans_text([(worker.stage.first_layer, worker.stage.last_layer) for worker in workers]),
        precision=first.stage.precision,
        kv_heads=_spans_text(kv_heads),
        columns=_spans_text(columns),
        experts=_experts_text(first.stage, first.shard.part),
        vocabulary=_spans_text(vocabulary),
        threads=str(first.shard.threads),
        cores=_where(shards),
        weights=_megabytes([shard.weight_bytes for shard in shards]),
        kv=_megabytes([shard.kv_bytes for shard in shards]),
        process=_megabytes([shard.process_bytes for shard in shards]),
    )


def _spans(part: ShardPart) -> tuple[tuple[int, int], ...]:
    return part.kv_heads, part.columns, part.vocabulary


def _spans_text(spans: Sequence[tuple[int, int]]) -> str:
    """One [first, last) range as a person counts, or the size of several."""
    first, last = spans[0]
    if last <= first:
        return "none"
    return f"{first}-{last - 1}" if len({*spans}) == 1 else f"{last - first} each"


def _experts_text(stage: StagePlan, part: ShardPart) -> str:
    """Experts that a shard holds whole; their number in all layers where these differ, empty where experts are cut."""
    if len(part.experts) <= 1:
        return _numbers(number for spans in part.experts for span in spans for number in range(span.first, span.last))
    own = part.experts[stage.first_layer : stage.last_layer]
    return f"{sum(span.last - span.first for spans in own for span in spans)} in all"


def _numbered(what: str, workers: Sequence[_Worker], number_of: Callable[[_Worker], int]) -> str:
    numbers = {number_of(worker) for worker in workers}
    return f"{what}{'s' if len(numbers) > 1 else ''} {_numbers(numbers)}"


def _numbers(numbers: Iterable[int]) -> str:
    """Such as `0-3, 7`; of many ranges, the first ones and how many numbers there are."""
    ordered = sorted({*numbers})
    runs = [[number for _, number in run] for _, run in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    if len(texts) > _MOST_RANGES:
        return f"{', '.join(texts[:_MOST_RANGES])}, ... ({len(ordered)})"
    return ", ".join(texts)


def _where(shards: Sequence[ShardPlan]) -> str:
    """Cores and how much of them, or the machines."""
    machines = [shard.machine for shard in shards if shard.machine]
    if len(machines) > 1:
        cores = f"{len(machines)} x {_class_of(machines[0])}"
    elif len(shards) > 1:
        cores = _numbers(core for shard in shards for core in shard.cores) or "any"
    else:
        cores = shards[0].machine or ",".join(map(str, shards[0].cores)) or "any"
    if shards[0].device is not None:
        cores = f"{shards[0].device.name}, {cores}"
    quota = shards[0].cpu_quota
    return cores if quota is None else f"{cores} at {quota:.0%}"


def _class_of(machine: str) -> str:
    numbered = _NUMBERED.fullmatch(machine)
    return machine if numbered is None else numbered[1]


def _megabytes(sizes: Sequence[int]) -> str:
    least, most = f"{min(sizes) / _MB:.0f}", f"{max(sizes) / _MB:.0f}"
    return f"{least} MB" if least == most else f"{least}-{most} MB"
