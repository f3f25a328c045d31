"""Batches without rows: their outputs follow from the shapes alone, so no worker is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.protocol.stage_interface import Dim, TensorSpec


def is_empty(tensors: Mapping[str, Array], batch: BatchAxes) -> bool:
    """Whether every input that has rows has zero of them."""
    sizes = [
        array.shape[axis]
        for name, array in tensors.items()
        if (axis := batch.inputs.get(name)) is not None and axis < array.ndim
    ]
    return batch.is_batched and bool(sizes) and not any(sizes)


def empty_outputs(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batch: BatchAxes, tensors: Mapping[str, Array]
) -> dict[str, Array]:
    """Outputs without rows, of the graph's types.

    Other dimensions are the graph's fixed sizes, sizes that an input has under the same name, or 0 if only a run would
    tell.

    Args:
        inputs: of the graph.
        outputs: of the graph.
        batch: the axes of rows; every output has one.
        tensors: the inputs, without rows.
    """
    sizes: dict[Dim, int] = {}
    for spec in inputs:
        sizes |= dict(zip(spec.shape or (), tensors[spec.name].shape, strict=False))
    return {spec.name: _empty(spec, batch.outputs[spec.name] or 0, sizes) for spec in outputs}


def _empty(spec: TensorSpec, axis: int, sizes: Mapping[Dim, int]) -> Array:
    dims = spec.shape if spec.shape is not None else (None,) * (axis + 1)
    shape = [dim if isinstance(dim, int) else 0 if dim is None else sizes.get(dim, 0) for dim in dims]
    shape[axis] = 0
    return np.empty(shape, object if spec.dtype == "string" else np.dtype(spec.dtype))
