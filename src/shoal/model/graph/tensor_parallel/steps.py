"""Decisions of the symbolic phase for a node: which part of each input every rank reads, and how results are split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.model.graph.tensor_parallel.layouts import AxisSplit


@dataclass(frozen=True, slots=True)
class Whole:
    """Read whole; a split value is gathered before the node."""


@dataclass(frozen=True, slots=True)
class Local:
    """Read as it is, split."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A whole value that is cut before the node: weights in the model, computed values by a slice in each run."""

    split: AxisSplit


@dataclass(frozen=True, slots=True)
class ScaledEntry:
    """A tensor with sizes of the whole, in which the number at `entry` becomes this rank's size."""

    split: AxisSplit
    entry: int


@dataclass(frozen=True, slots=True)
class OwnSize:
    """A vector with one number, which becomes this rank's size of a split, such as a bound of a slice."""

    split: AxisSplit


Operand = Whole | Local | Cut | ScaledEntry | OwnSize


@dataclass(frozen=True, slots=True)
class AddedOnce:
    """A value that is added to a sum after the ranks' parts are added up."""

    name: str
    """Name of a constant or whole value."""
    factor: float = 1.0
    num_spatial: int = 0
    """Axes of size 1 to append, so that a vector is aligned with channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStep:
    """How every rank computes one node."""

    operands: tuple[Operand, ...]
    """One operand for each input of the node; if there are fewer, the remaining inputs are left out."""
    outputs: tuple[AxisSplit | None, ...]
    """One split for each output of the node; None: whole (or a part of a sum)."""
    is_sum: bool = False
    """Whether the only output is a part of a sum, which is added up at once."""
    bias: AddedOnce | None = None
    """Only after a sum."""
    sizes: Mapping[str, AxisSplit] = field(default_factory=dict[str, AxisSplit])
    """Integer attributes that become this rank's size of a split, such as a convolution's number of groups."""
    is_parted: bool = False
    """Whether the node is a `Split` along the split axis, whose parts get this rank's sizes."""
    restored_entry: tuple[int, AxisSplit] | None = None
    """If the output holds sizes: the entry that must become the size of the whole again, and its split."""

    @property
    def is_split(self) -> bool:
        """Whether ranks compute different parts."""
        return self.is_sum or any(split is not None for split in self.outputs)
