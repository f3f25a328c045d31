"""What the symbolic phase decides for a node: which part of each input every rank reads, and how its results lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal.model.graph.tensor_parallel.layouts import AxisSplit


@dataclass(frozen=True, slots=True)
class Whole:
    """Read whole: made so before the node where it is split."""


@dataclass(frozen=True, slots=True)
class Local:
    """Read as it lies, split."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Whole, and cut before the node: weights in the model, computed values by a slice when it runs."""

    split: AxisSplit


@dataclass(frozen=True, slots=True)
class ScaledEntry:
    """A tensor of whole sizes, of which the entry at `entry` becomes this rank's size."""

    split: AxisSplit
    entry: int


@dataclass(frozen=True, slots=True)
class OwnSize:
    """A vector of one number: this rank's size of a split. What is a bound of a slice becomes this rank's."""

    split: AxisSplit


Operand = Whole | Local | Cut | ScaledEntry | OwnSize


@dataclass(frozen=True, slots=True)
class AddedOnce:
    """What is added to a sum after the ranks' parts are in it."""

    name: str
    """a constant or whole value"""
    factor: float = 1.0
    num_spatial: int = 0
    """axes of size 1 to put behind it, so that a vector lies on channels"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStep:
    """How every rank computes one node."""

    operands: tuple[Operand, ...]
    """one per input of the node; shorter: the inputs after it are left out"""
    outputs: tuple[AxisSplit | None, ...]
    """one per output of the node; None: whole (or a part of a sum)"""
    is_sum: bool = False
    """the only output is a part of a sum, which is put together at once"""
    bias: AddedOnce | None = None
    """only behind a sum"""
    sizes: Mapping[str, AxisSplit] = field(default_factory=dict[str, AxisSplit])
    """integer attributes that become this rank's size of a split, such as a convolution's number of groups"""
    is_parted: bool = False
    """a `AxisSplit` along the split axis: every part has this rank's size of it"""
    restored_entry: tuple[int, AxisSplit] | None = None
    """the output holds sizes, of which this one must be made the whole's again"""

    @property
    def is_split(self) -> bool:
        """Whether ranks compute different parts."""
        return self.is_sum or any(split is not None for split in self.outputs)
