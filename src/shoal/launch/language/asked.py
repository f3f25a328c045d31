"""What a command's options say of a plan for a language model: its limits, its load and its precisions."""

from __future__ import annotations

from shoal.config import LaunchConfig, PlanningConfig
from shoal.errors import ConfigError
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.choice.build_plan import Limits
from shoal.planner.predict.workload import Workload
from shoal.protocol.stage_config import BLOCK_SIZE

_LOWER: tuple[Precision, ...] = ("int8", "int4")
"""Precisions below fp32, in descending order."""


def limits_of(config: LaunchConfig, model: ModelOnDisk) -> Limits:
    """The limits that every replica of a chosen plan must meet."""
    planning = config.planning
    return Limits(
        block_size=BLOCK_SIZE,
        max_context=model.longest_context(config.max_context),
        max_step_tokens=config.max_step_tokens,
        max_seqs=config.max_seqs,
        kv_memory_bytes=config.kv_memory_bytes,
        least_kv_tokens=planning.streams * (planning.prompt_tokens + planning.output_tokens),
    )


def workload_of(planning: PlanningConfig, hypotheses: int) -> Workload:
    """The load to plan for. `hypotheses`: of a beam search of each request, 1 without."""
    return Workload(
        streams=planning.streams,
        prompt_tokens=planning.prompt_tokens,
        output_tokens=planning.output_tokens,
        hypotheses=hypotheses,
    )


def precisions_of(precision: Precision, floor: str | None) -> tuple[Precision, ...]:
    """The precision that was asked for, and all lower ones down to the floor, if there is one. Raises ConfigError."""
    if floor is None or floor == precision:
        return (precision,)
    if floor not in _LOWER:
        raise ConfigError(f"the precision floor is {floor!r}; use one of {', '.join(_LOWER)}")
    lower = _LOWER[: _LOWER.index(floor) + 1]
    if precision in lower:
        lower = lower[lower.index(precision) + 1 :]
    return (precision, *lower)
