"""Roofline for a described machine: every block takes the longer one of its arithmetic and its memory traffic.

Source: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009. No block takes less than the start of its
kernels, which no description states; START_S stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shoal.core.plan.language import Block
from shoal.core.plan.state_room import HYPOTHESES
from shoal.planner.speeds.clips import ClipWork
from shoal.planner.speeds.speeds import BlockSpeed, Curve, WorkerSpeed
from shoal.planner.speeds.step_points import LayerWeights

START_S = 20e-6
"""Seconds to start the kernels of half a layer. Source: several ONNX Runtime runs on bound buffers, 2 to 6 us each
(docs/design.md), and their barriers."""
_ROWS = tuple(1 << power for power in range(11))


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineRates:
    """A worker's rates at one precision, with all its threads."""

    memory_bytes_per_s: float
    """Bytes per second when weights, keys and values are read."""
    flops_per_s: float
    """Floating-point operations per second, 2 per multiply-add."""


def roofline_worker(
    blocks: Sequence[Block],
    weights: LayerWeights,
    rates: RooflineRates,
    *,
    query_width: int,
    clip: ClipWork | None = None,
) -> WorkerSpeed:
    """Estimate a worker's speed from its machine's rates.

    Args:
        blocks: embedding, layers and head at the precision of the rates; shared weights count once.
        weights: the division of a layer's weights.
        rates: the worker's rates.
        query_width: query heads times head_dim: columns that attention computes for every token of context.
        clip: the work of a clip, to which every layer attends as well; None: the model has no encoder.
    """
    layers = blocks[1:-1]
    active_bytes = sum(layer.read_bytes(1) for layer in layers) / len(layers)
    layer_flops = sum(layer.flops_per_token for layer in layers) / len(layers)
    kv_bytes = max(layer.kv_bytes_per_token for layer in layers)
    context_s = max(kv_bytes / rates.memory_bytes_per_s, 4.0 * query_width / rates.flops_per_s)
    head = blocks[-1]
    attention = _block(lambda _: active_bytes * (1 - weights.mlp), layer_flops * (1 - weights.mlp), rates)
    if clip is not None:  # the hypotheses of a clip share its keys and values
        read_s, compute_s = kv_bytes / HYPOTHESES / rates.memory_bytes_per_s, 4.0 * query_width / rates.flops_per_s
        attention = replace(attention, fixed_row_s=clip.num_rows * max(read_s, compute_s))

    def mlp_bytes(num_rows: int) -> float:
        """Bytes of the MLP that so many rows read; more rows use more experts."""
        read = sum(layer.read_bytes(num_rows) for layer in layers) / len(layers)
        return read - active_bytes * (1 - weights.mlp)

    return WorkerSpeed(
        attention=attention,
        mlp=_block(mlp_bytes, layer_flops * weights.mlp, rates),
        head=_block(lambda _: head.weight_bytes, head.flops_per_token, rates),
        decode_context=Curve(rows=(1, 2), seconds=(context_s, 2 * context_s)),
        prefill_context_s=4.0 * query_width / rates.flops_per_s,
        step_s=START_S,
        clip=clip and clip.speed((clip.encoder_flops + clip.layer_flops) / rates.flops_per_s, num_layers=1),
    )


def _block(bytes_of: Callable[[int], float], flops_per_row: float, rates: RooflineRates) -> BlockSpeed:
    """The speed of a block. The number of rows at which arithmetic takes as long as reading is a point of its curve.

    `bytes_of`: gives the bytes that a number of rows reads.
    """
    row_s = flops_per_row / rates.flops_per_s

    def read_s(count: int) -> float:
        return bytes_of(count) / rates.memory_bytes_per_s

    bend = round(read_s(_ROWS[-1]) / row_s) if row_s else 0
    rows = tuple(sorted({*_ROWS, bend} - {0}))
    curve = Curve(rows=rows, seconds=tuple(max(read_s(count), count * row_s) for count in rows))
    return BlockSpeed(decode=curve, prefill=curve, fixed_s=START_S)
