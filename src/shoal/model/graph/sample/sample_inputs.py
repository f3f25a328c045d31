"""Made-up inputs for a graph: to measure it, to find its batch axes, and to check that a server answers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import ml_dtypes  # noqa: F401  (teaches NumPy the names of the smaller floats)
import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.protocol.stage_interface import TensorSpec

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Computes a graph's outputs; raises InvalidRequest if it cannot."""

_IMAGE_SIZES = (128, 64, 48, 224, 32, 256)
"""The first size is the smallest for which stages are balanced as for real lines of text (PP-OCR's recognizer)."""
_SEQUENCE_SIZES = (32, 16, 576, 512, 128, 8, 1)
"""576 and 512 are frames of speech models at 16 kHz."""
_SAMPLING_RATE = 16_000
_SCALARS = (1, 0)
_NUM_IDS = (5, 0)
"""Largest token id, counting from 1, which nearly every vocabulary has. 0: all ids are 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """One guess for all sizes that a graph leaves open."""

    rows: int
    image: int
    sequence: int
    scalar: int
    num_ids: int


def sample_inputs(
    specs: Sequence[TensorSpec], run: Run | None, *, rows: int = 1, axes: BatchAxes | None = None
) -> dict[str, Array]:
    """Inputs for a graph with these specs; guesses are tried until the graph runs.

    Args:
        specs: the graph's inputs.
        run: the graph; None: the first guess is taken without a trial.
        rows: of the batch, if the graph does not fix them.
        axes: of the batch; None: the first dimension of each input.

    Raises:
        ConfigError: the graph runs on no guess; the message has its reason for the first one.
    """
    reason = ""
    tried: set[Hashable] = set()
    for sizes in _guesses(rows):
        inputs = {spec.name: _make(spec, sizes, axes, seed) for seed, spec in enumerate(specs)}
        if run is None:
            return inputs
        looks = tuple((array.shape, *array.reshape(-1)[:1].tolist()) for array in inputs.values())
        if looks in tried:
            continue
        tried.add(looks)
        try:
            run(inputs)
        except InvalidRequest as error:
            reason = reason or str(error)
        else:
            return inputs
    raise ConfigError(
        f"the model does not run with made-up inputs ({reason}); give real ones, with --inputs where a command "
        "takes them"
    )


def _guesses(rows: int) -> Iterator[_Sizes]:
    for num_ids, scalar, sequence, image in product(_NUM_IDS, _SCALARS, _SEQUENCE_SIZES, _IMAGE_SIZES):
        yield _Sizes(rows=rows, image=image, sequence=sequence, scalar=scalar, num_ids=num_ids)


def _make(spec: TensorSpec, sizes: _Sizes, axes: BatchAxes | None, seed: int) -> Array:
    shape = _shape(spec, sizes, axes)
    if not shape:
        return _make_scalar(spec, sizes)
    if spec.dtype == "string":
        return np.full(shape, "a", dtype=object)
    dtype = np.dtype(spec.dtype)
    name = spec.name.lower()
    if dtype.kind == "b" or "mask" in name:
        return np.ones(shape, dtype)
    if dtype.kind in "iu":
        num_ids = 0 if "type" in name else sizes.num_ids
        ids = np.arange(math.prod(shape)) % num_ids + 1 if num_ids else np.zeros(math.prod(shape))
        return ids.reshape(shape).astype(dtype)
    values = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return np.asarray(values).astype(dtype)


def _shape(spec: TensorSpec, sizes: _Sizes, axes: BatchAxes | None) -> tuple[int, ...]:
    dims = spec.shape if spec.shape is not None else (None,)
    is_image = len(dims) == 4 and spec.dtype.startswith("float")
    num_open = sum(not isinstance(dim, int) for dim in dims)
    is_state = len(dims) > 2 and isinstance(dims[0], int) and dims[0] > 1 and num_open == 1  # (layers, batch, width)
    batch_axis = 0 if axes is None else axes.inputs.get(spec.name)
    shape: list[int] = []
    for axis, dim in enumerate(dims):
        if axis == batch_axis and (axes is not None or not isinstance(dim, int)):
            fixed = axes.rows if axes is not None else None
            shape.append(fixed or sizes.rows)
        elif isinstance(dim, int):
            shape.append(dim)
        elif is_state:
            shape.append(sizes.rows)
        elif is_image:
            shape.append(3 if axis == 1 else sizes.image)
        else:
            shape.append(1 if axis == 0 else sizes.sequence)
    return tuple(shape)


def _make_scalar(spec: TensorSpec, sizes: _Sizes) -> Array:
    if spec.dtype == "string":
        return np.array("a", dtype=object)
    dtype = np.dtype(spec.dtype)
    words = re.split("[^a-z]+", spec.name.lower())
    is_rate = dtype.itemsize > 1 and not {"sr", "rate"}.isdisjoint(words)
    return np.array(_SAMPLING_RATE if is_rate else sizes.scalar).astype(dtype)
