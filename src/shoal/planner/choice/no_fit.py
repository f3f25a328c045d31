"""The message for a model that fits nowhere: how much memory is missing, and the smallest change that suffices."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.memory.fit import format_bytes
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.stage_config import Precision


def why_nothing_fits(
    fleets: Sequence[Fleet], model: ModelSizes, workload: Workload, precisions: Sequence[Precision]
) -> str:
    """The message, in one line. The smallest change is the first of fewer streams, less precision and more memory that
    suffices."""
    available = max(_memory_bytes(fleet) for fleet in fleets)
    weights = {name: sizes.total_bytes for name, sizes in model.by_precision.items()}
    smallest = min(precisions, key=lambda name: weights[name])
    kv_bytes = _kv_bytes_per_stream(model, workload)
    needed = weights[smallest] + workload.streams * kv_bytes
    text = (
        f"{model.name} needs {format_bytes(needed)} ({format_bytes(weights[smallest])} of weights at {smallest}, "
        f"{format_bytes(workload.streams * kv_bytes)} of KV for {workload.streams} streams); "
        f"these workers have {format_bytes(available)}"
    )
    if needed > available:
        text += f", so {format_bytes(needed - available)} are missing"
    else:
        text += ", but in pieces too small for its layers"
    return f"{text}; {_way_out(available, weights, smallest, kv_bytes, needed)}"


def _way_out(available: int, weights: dict[str, int], smallest: str, kv_bytes: int, needed: int) -> str:
    streams = (available - weights[smallest]) // max(1, kv_bytes)
    if needed > available and streams >= 1:
        return f"--streams {streams} would fit"
    lower = [name for name, size in weights.items() if size < weights[smallest] and size + kv_bytes <= available]
    if lower:
        return f"--precision {max(lower, key=lambda name: weights[name])} would fit"
    return f"add a worker with {format_bytes(max(needed - available, weights[smallest] // 2))}"


def _kv_bytes_per_stream(model: ModelSizes, workload: Workload) -> int:
    context = min(model.max_context, workload.prompt_tokens + workload.output_tokens)
    return model.num_kv_layers * context * model.kv_bytes_per_token


def _memory_bytes(fleet: Fleet) -> int:
    return sum(one.count * one.memory_bytes for one in fleet.classes)
