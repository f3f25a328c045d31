"""Time the parts of a model on a team of processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from shoal.core.generation.scheduler_config import MAX_STEP_TOKENS
from shoal.measure.language.parts import (
    CLIP,
    COLUMNS,
    FULL,
    HALF,
    LONG,
    NOTHING,
    SHORT,
    Effort,
    TimedPart,
    kind_of,
    plan_parts,
)
from shoal.measure.language.process import ProfileTeam, seconds_of
from shoal.measure.language.timed_model import ModelToTime
from shoal.measure.slots import Slot
from shoal.planner.speeds.step_points import ModelPoints, PartPoints, StepKind
from shoal.protocol.profile_messages import DropPart, LoadPart, TimeLimits, TimeStep
from shoal.protocol.stage_config import BLOCK_SIZE, StageConfig
from shoal.worker.measuring.profile_steps import blocks_needed, memories_needed, states_needed

LIMITS = TimeLimits(min_runs=3, max_runs=12, enough_s=0.08)
QUICK_LIMITS = TimeLimits(min_runs=2, max_runs=5, enough_s=0.03)
QUOTA_LIMITS = TimeLimits(min_runs=3, max_runs=200, enough_s=0.4)
"""Limits under a CPU quota, for many of its periods, as a single step either runs at full speed or waits."""

WORDS = {
    LONG: "writing answers, by most of the model",
    SHORT: "reading prompts and long contexts, by a few layers",
    NOTHING: "what a step costs by itself",
    HALF: "half of every layer, as two workers share it",
    COLUMNS: "half of every layer without its attention",
    CLIP: "the encoder",
}
"""The purpose of timing each part, for users."""

Progress = Callable[[str], None]
Seconds = dict[StepKind, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedModel:
    """The measured times of a model on one worker."""

    busy: ModelPoints
    """Times while all workers compute."""
    alone: ModelPoints | None
    """Times of some of the steps while the other workers are idle; None: there are no others."""


def time_model(
    team: ProfileTeam, model: ModelToTime, ranks: Sequence[int], on_progress: Progress, *, effort: Effort = FULL
) -> list[TimedModel]:
    """Time a model on some of a team's workers while all of them compute the same.

    Args:
        team: a team on the slots of a layout.
        model: the model whose parts are loaded.
        ranks: the workers whose times are returned, which are also timed alone.
        on_progress: called with what is being done.
        effort: the steps to time, and how often; FULL has the most repetitions.

    Raises:
        WorkerLost: a process died or does not answer.
        ModelLoadError: the model cannot be loaded.
        CapacityError: there is not enough memory.
    """
    with_others, has_devices = len(team.slots) > 1, any(slot.device is not None for slot in team.slots)
    has_quota = any(slot.cpu_quota < 1 for slot in team.slots)
    limits = QUOTA_LIMITS if has_quota else LIMITS if effort is FULL else QUICK_LIMITS
    busy: dict[str, list[PartPoints]] = {}
    alone: dict[str, list[PartPoints]] = {}
    parts = plan_parts(
        model.blocks,
        model.atoms,
        limits,
        with_shards=with_others,
        effort=effort,
        whole_layers=has_devices,
        has_clips=model.clip is not None,
    )
    for part in parts:
        on_progress(f"{_workers(team)}: {WORDS[part.name]}")
        team.ask_each(lambda rank, part=part: _load_message(model, part, team.slots[rank]))
        busy[part.name] = [_points(model, part, seconds) for seconds in _time_busy(team, part.steps, ranks, effort)]
        if with_others and part.alone_steps:
            alone[part.name] = [
                _points(model, part, {kind_of(step): _time_alone(team, rank, step) for step in part.alone_steps})
                for rank in ranks
            ]
        team.ask_all(DropPart(name=part.name))
    return [_timed_model(busy, alone, index) for index in range(len(ranks))]


def num_parts(num_workers: int, num_shards: int, *, has_devices: bool = False) -> int:
    """Number of parts that `time_model` times. `num_shards` is the most shards into which the model can be split."""
    if has_devices:
        return 2
    return 5 if num_workers > 1 and num_shards > 1 else 3


def _workers(team: ProfileTeam) -> str:
    if any(slot.device is not None for slot in team.slots):
        return " and ".join(map(str, team.slots))
    count, threads = len(team.slots), team.slots[0].threads
    return f"{count} worker{'' if count == 1 else 's'} of {threads} thread{'' if threads == 1 else 's'}"


def timed_layers(model: ModelToTime) -> set[tuple[int, int]]:
    """The layer ranges [first, last) of all parts of a model that are timed, with and without shards."""
    parts = plan_parts(model.blocks, model.atoms, LIMITS, with_shards=True, has_clips=model.clip is not None)
    return {(part.first_layer, part.last_layer) for part in parts}


def typical_seconds(seconds: Sequence[float], slot: Slot) -> float:
    """The median of many runs; the mean under a CPU quota, where some runs wait long and the others not at all."""
    return statistics.median(seconds) if slot.cpu_quota == 1 else statistics.fmean(seconds)


def _time_busy(team: ProfileTeam, steps: Sequence[TimeStep], ranks: Sequence[int], effort: Effort) -> list[Seconds]:
    """Time every step on all workers at once, in rounds; all workers keep computing until all have been timed."""
    rounds = [_one_round(team, steps, ranks) for _ in range(effort.num_rounds)]
    team.pause()
    return [
        {kind: statistics.harmonic_mean([one[index][kind] for one in rounds]) for kind in map(kind_of, steps)}
        for index in range(len(ranks))
    ]


def _one_round(team: ProfileTeam, steps: Sequence[TimeStep], ranks: Sequence[int]) -> list[Seconds]:
    times: list[Seconds] = [{} for _ in ranks]
    for step in steps:
        answers = team.ask_all(_keep_going(step) if len(team.slots) > 1 else step)
        for seconds, rank in zip(times, ranks, strict=True):
            seconds[kind_of(step)] = typical_seconds(seconds_of(answers[rank]), team.slots[rank])
    return times


def _time_alone(team: ProfileTeam, rank: int, step: TimeStep) -> float:
    return typical_seconds(seconds_of(team.ask(rank, step)), team.slots[rank])


def _keep_going(step: TimeStep) -> TimeStep:
    return replace(step, limits=replace(step.limits, keep_going=True))


def _load_message(model: ModelToTime, part: TimedPart, slot: Slot) -> LoadPart:
    steps = (*part.steps, *part.alone_steps)
    rows = max(step.output_rows + step.prompt_rows for step in steps)
    num_memories = max(map(memories_needed, steps)) if model.clip is not None else 0
    return LoadPart(
        name=part.name,
        model_path=str(model.path),
        stage=StageConfig(
            first_layer=part.first_layer,
            last_layer=part.last_layer,
            precision=model.precision,
            threads=slot.threads,
            num_blocks=max(blocks_needed(step, BLOCK_SIZE) for step in steps),
            block_size=BLOCK_SIZE,
            num_states=max(map(states_needed, steps)),
            num_memories=num_memories,
            max_step_tokens=MAX_STEP_TOKENS if part.name == CLIP else rows,
            max_context=max(step.past_tokens + max(1, step.prompt_rows) for step in steps) + 1,
            part=part.shard,
        ),
        device=slot.device,
    )


def _points(model: ModelToTime, part: TimedPart, seconds: Seconds) -> PartPoints:
    atoms, shard = model.atoms, part.shard
    if shard is None:
        return PartPoints(num_layers=part.num_layers, vocabulary=float(part.has_head), seconds=seconds)
    vocabulary = (shard.vocabulary[1] - shard.vocabulary[0]) / atoms.vocab_size
    return PartPoints(
        num_layers=part.num_layers,
        attention=(shard.kv_heads[1] - shard.kv_heads[0]) / atoms.num_kv_heads,
        mlp=(shard.columns[1] - shard.columns[0]) / atoms.intermediate_size,
        vocabulary=vocabulary if part.has_head else 0.0,
        seconds=seconds,
    )


def _timed_model(busy: dict[str, list[PartPoints]], alone: dict[str, list[PartPoints]], index: int) -> TimedModel:
    def part(name: str) -> PartPoints | None:
        return busy[name][index] if name in busy else None

    (step_s,) = busy[NOTHING][index].seconds.values() if NOTHING in busy else (None,)
    points = ModelPoints(
        long=busy[LONG][index],
        short=busy[SHORT][index],
        half=part(HALF),
        columns=part(COLUMNS),
        clip_s=_clip_s(part(CLIP)),
        step_s=step_s,
    )
    again = None
    if alone:
        again = ModelPoints(long=alone[LONG][index], short=alone[SHORT][index])
    return TimedModel(busy=points, alone=again)


def _clip_s(part: PartPoints | None) -> float | None:
    """Seconds that a clip adds to a step."""
    if part is None:
        return None
    seconds = {kind.num_clips: one for kind, one in part.seconds.items()}
    return max(0.0, seconds[1] - seconds[0])
