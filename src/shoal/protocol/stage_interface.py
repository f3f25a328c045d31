"""One stage of an ONNX graph: its nodes, inputs and outputs.

Plain dataclasses, which are sent in messages as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = -1
"""Stands for the head in place of a stage index: the source of a graph's inputs and the consumer of its outputs."""

Dim = int | str | None
"""A fixed size, the name of a symbolic size, or None if it is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph's declaration of a tensor."""

    name: str
    dtype: str
    """NumPy's name, such as `float32` or `int64`; `string`; or ml_dtypes' name of `bfloat16` and smaller floats."""
    shape: tuple[Dim, ...] | None
    """The shape; None if even the rank is unknown."""
    is_optional: bool = False
    """Whether it is an input with a default value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInput:
    """An input tensor of a stage."""

    spec: TensorSpec
    source: int
    """The stage that produces it, or HEAD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutput:
    """An output tensor of a stage."""

    spec: TensorSpec
    consumers: tuple[int, ...]
    """The stages that take it, ascending; HEAD comes first if it is an output of the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInterface:
    """The nodes of one stage with its inputs and outputs."""

    first_node: int
    last_node: int
    """The first node after the stage."""
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]
