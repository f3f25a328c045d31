"""Where the cells of a row's past lie among those of the longest row, and the mask that tells the graph.

Shapes: B rows, T new tokens of each, P cells of the past, C = P + T.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from shoal.arrays import I32

Side = Literal["left", "right"]
"""The side of the padding from a row's own cells: left if a graph appends new tokens after all cells, right if it puts
them after the row's own (the operator GroupQueryAttention)."""


def first_cell(side: Side, num_cells: int, length: int) -> int:
    """First cell of a row whose past has `length` tokens among `num_cells` cells."""
    return num_cells - length if side == "left" else 0


def new_cell(side: Side, num_cells: int, length: int) -> int:
    """Cell of the first new token of such a row, in the results."""
    return num_cells if side == "left" else length


def mask_of(side: Side, num_cells: int, lengths: Sequence[int], num_new: int) -> I32:
    """[B, C]: 1 for each row's own cells, 0 for padding."""
    cells_C = np.arange(num_cells + num_new)
    lengths_B1 = np.array(lengths).reshape(-1, 1)
    if side == "left":
        return (cells_C >= num_cells - lengths_B1).astype(np.int32)
    return (cells_C < lengths_B1 + num_new).astype(np.int32)
