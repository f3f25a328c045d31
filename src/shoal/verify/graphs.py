"""Checking that a split graph computes the same as plain ONNX Runtime on the whole file.

Both run the same batches, as ONNX Runtime chooses other kernels, which round differently, for other numbers of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.graph.file.value_types import is_exact, runtime_spec
from shoal.model.graph.stage.ort_values import NUMPY_KINDS, to_array, to_value
from shoal.model.runtime_sessions import session_options, start_session

RELATIVE_TOLERANCE = 1e-5
"""Difference explained by another order of sums, relative to the output's largest value. It occurs because a cut may
keep ONNX Runtime from fusing nodes across it."""
_HALF_TOLERANCE = 1e-2
"""The tolerance of 16-bit floats: a few units in the last of their 8 to 11 bits. Smaller floats: one last unit."""
DEVICE_TOLERANCE = 1e-3
"""The tolerance with a device, whose kernels sum in another order and round functions differently. 16-bit floats keep
their own tolerance."""
_OWN_ROUNDING_FACTOR = 4.0
"""Allowed rounding of a split relative to that of the whole graph computed in another order. A sigmoid far below its
middle, for example, is exact to 2^-24 of 1, not of its small value. Source: the OCR detector on made-up inputs, 2.4e-4
for both; a ratio of at most 1.4 on the other models of tests/real_models.py."""
_LARGEST_TOLERANCE = 1e-2
"""The most that the graph's own rounding may raise the tolerance to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputComparison:
    """The comparison of one output of the split graph with that of the whole one."""

    name: str
    is_equal: bool
    """Whether all bits are equal, or both have the same NaNs."""
    max_difference: float
    """Largest absolute difference; infinite if shapes, types, NaNs or integers differ."""
    relative_difference: float
    """`max_difference` divided by the largest magnitude in the whole graph's output."""
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference."""
        return self.is_equal or self.relative_difference <= self.tolerance


class PlainRuntime:
    """Plain ONNX Runtime on the whole file. Implements `executor.graph_in_process.GraphRunner`."""

    def __init__(self, path: Path, *, threads: int, is_optimized: bool = True) -> None:
        """Load a file. Unless `is_optimized`, sums may be computed in another order. Raises ModelLoadError."""
        options = session_options(threads)
        if not is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = start_session(path, options)
        except Exception as error:  # ONNX Runtime's errors share no other base
            raise ModelLoadError(f"plain ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        self._inputs = _dtypes(self._session.get_inputs())
        self._outputs = _dtypes(self._session.get_outputs())

    def run(self, tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Compute all outputs of the graph, by name. Raises InvalidRequest."""
        try:
            if NUMPY_KINDS.issuperset((*self._inputs.values(), *self._outputs.values())):
                outputs: Sequence[Any] = self._session.run(list(self._outputs), dict(tensors))
                return dict(zip(self._outputs, outputs, strict=True))
            return self._run_typed(tensors)
        except Exception as error:  # as above
            raise InvalidRequest(f"plain ONNX Runtime: {str(error).splitlines()[0]}") from error

    def _run_typed(self, tensors: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """As `run`, for types that NumPy itself lacks."""
        given = {name: to_value(tensors[name], dtype) for name, dtype in self._inputs.items()}
        values = self._session.run_with_ort_values(list(self._outputs), given)
        return {name: to_array(value, self._outputs[name]) for name, value in zip(self._outputs, values, strict=True)}


def _dtypes(ends: Sequence[ort.NodeArg]) -> dict[str, str]:
    """Dtypes of a session's inputs or outputs, by name."""
    return {end.name: spec.dtype for end in ends if (spec := runtime_spec(end)) is not None}


def compare_outputs(
    whole: Mapping[str, npt.NDArray[Any]],
    split: Mapping[str, npt.NDArray[Any]],
    reordered: Mapping[str, npt.NDArray[Any]] | None = None,
    *,
    has_devices: bool = False,
) -> list[OutputComparison]:
    """Compare every output of the whole graph with that of the split one.

    Args:
        whole: the outputs of plain ONNX Runtime.
        split: the outputs of the workers.
        reordered: the outputs of unoptimized ONNX Runtime, which show the graph's own rounding; None: the usual
            tolerance applies.
        has_devices: whether a worker computes on a device other than a processor.
    """
    least = DEVICE_TOLERANCE if has_devices else 0.0
    return [
        _compare(name, reference, split[name], None if reordered is None else reordered[name], least)
        for name, reference in whole.items()
    ]


def _compare(
    name: str,
    reference: npt.NDArray[Any],
    value: npt.NDArray[Any],
    reordered: npt.NDArray[Any] | None,
    least: float,
) -> OutputComparison:
    tolerance = max(_usual_tolerance(reference.dtype), least)
    if reordered is not None:
        own_difference, own_scale = _difference(reference, reordered)
        own_rounding = _OWN_ROUNDING_FACTOR * own_difference / (own_scale or 1.0)
        tolerance = max(tolerance, min(own_rounding, _LARGEST_TOLERANCE))
    difference, scale = _difference(reference, value)
    return OutputComparison(
        name=name,
        is_equal=difference == 0.0,
        max_difference=difference,
        relative_difference=difference / scale if difference and scale else difference,
        tolerance=tolerance,
    )


def _usual_tolerance(dtype: np.dtype[Any]) -> float:
    if dtype.itemsize >= 4:
        return RELATIVE_TOLERANCE
    return _HALF_TOLERANCE if dtype.itemsize == 2 or is_exact(dtype) else float(ml_dtypes.finfo(dtype).eps)


def _difference(reference: npt.NDArray[Any], value: npt.NDArray[Any]) -> tuple[float, float]:
    """Largest difference and largest magnitude."""
    if reference.shape != value.shape or reference.dtype != value.dtype:
        return float("inf"), 1.0
    if is_exact(reference.dtype):
        return (0.0 if np.array_equal(reference, value) else float("inf")), 1.0
    wide = np.complex128 if reference.dtype.kind == "c" else np.float64
    a, b = reference.astype(wide), value.astype(wide)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)) or not np.array_equal(
        a[~np.isfinite(a)], b[~np.isfinite(b)], equal_nan=True
    ):
        return float("inf"), 1.0
    finite = np.isfinite(a)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)), float(np.abs(a[finite]).max(initial=0.0))
