"""Where the cells of a row's past lie among those of the longest row, and what a run is told of that.

Shapes: B rows, T new tokens of each, P cells of the past, C = P + T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from shoal.arrays import I32

Side = Literal["left", "right"]
"""On which side of a row's own cells the padding is: on the left where a graph appends new tokens to all cells, on the
right where it puts them behind the row's own (the operator GroupQueryAttention)."""


def first_cell(side: Side, num_cells: int, length: int) -> int:
    """Of a row with a past of `length` tokens among `num_cells` cells."""
    return num_cells - length if side == "left" else 0


def new_cell(side: Side, num_cells: int, length: int) -> int:
    """Where the first new token of such a row is, in the results."""
    return num_cells if side == "left" else length


def mask_of(side: Side, num_cells: int, lengths: Sequence[int], num_new: int) -> I32:
    """[B, C]: 1 for each row's own cells, 0 for padding."""
    cells_C = np.arange(num_cells + num_new)
    lengths_B1 = np.array(lengths).reshape(-1, 1)
    if side == "left":
        return (cells_C >= num_cells - lengths_B1).astype(np.int32)
    return (cells_C < lengths_B1 + num_new).astype(np.int32)
