"""A plan for an ONNX graph: which worker runs which nodes and where each tensor goes. Plain data.

A stage is a contiguous run of the graph's nodes in the file's (topological) order, so that tensors only ever flow
from a lower stage to a higher one. A tensor that several stages read goes straight from its producer to each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAxes:
    """Along which axis each input and output of a graph holds independent rows."""

    inputs: Mapping[str, int | None]
    """None: the input is shared by all rows (a sampling rate, say)"""
    outputs: Mapping[str, int | None]
    """None: the output cannot be cut into rows"""
    rows: int | None
    """rows that every run must have, where the graph fixes them; None: any number"""

    @property
    def is_batched(self) -> bool:
        """Whether runs of several requests can be put together, or one run cut into rows."""
        return any(axis is not None for axis in self.inputs.values()) and None not in self.outputs.values()


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
class GraphStagePlan:
    """One worker and its contiguous nodes."""

    first_node: int
    last_node: int
    """exclusive"""
    inputs: tuple[StageInput, ...]
    outputs: tuple[StageOutput, ...]
    threads: int
    cores: tuple[int, ...]
    """CPU ids the worker is pinned to; empty: not pinned"""
    weight_bytes: int
    compute_s: float | None
    """measured seconds of its nodes for the sample run; None where nothing was measured"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReplicaPlan:
    """A pipeline of stages that together hold the whole graph."""

    stages: tuple[GraphStagePlan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """The whole decision."""

    model: str
    """as the user named it"""
    split: str
    """canonical split, such as `dp=2,pp=3:1`; `1` for none"""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchAxes
    replicas: tuple[GraphReplicaPlan, ...]

    @property
    def num_workers(self) -> int:
        """Over all replicas."""
        return sum(len(replica.stages) for replica in self.replicas)
