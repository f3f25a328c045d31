"""One stage of an ONNX graph: its nodes, and the tensors at its border. The planner cuts it, the worker builds it.

Plain dataclasses, which travel inside messages as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = -1
"""Where a graph's inputs come from and its outputs go, in the place of a stage index."""

Dim = int | str | None
"""A fixed size, the name of a symbolic one, or unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """What a graph says of one of its tensors."""

    name: str
    dtype: str
    """NumPy's name, such as `float32` or `int64`; `string`, and ml_dtypes' names for `bfloat16` and smaller floats"""
    shape: tuple[Dim, ...] | None
    """None where even the rank is unknown"""
    is_optional: bool = False
    """whether it is an input that has a default"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInput:
    """A tensor that a stage takes from outside."""

    spec: TensorSpec
    source: int
    """the stage that produces it, or HEAD"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutput:
    """A tensor that a stage hands out."""

    spec: TensorSpec
    consumers: tuple[int, ...]
    """stages that take it, ascending; HEAD first where it is an output of the graph"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInterface:
    """One stage's nodes and the tensors at its border."""

    first_node: int
    last_node: int
    """exclusive"""
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]
