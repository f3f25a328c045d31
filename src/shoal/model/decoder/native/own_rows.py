"""Rows of a matrix of which a shard may hold only some."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal import _native
from shoal.arrays import F32


def unpack_own_rows(matrix: _native.Matrix | None, own_T: npt.NDArray[np.int32], out_TD: F32) -> None:
    """Unpack rows of a matrix by their numbers; rows that belong to other shards become zeros."""
    num_rows = 0 if matrix is None else matrix.shape[0]
    is_own_T = (own_T >= 0) & (own_T < num_rows)
    if matrix is not None and is_own_T.all():
        matrix.unpack_rows(own_T, out_TD)
        return
    out_TD[:] = 0.0
    if matrix is not None:
        rows_TD = np.empty((np.count_nonzero(is_own_T), out_TD.shape[1]), np.float32)
        matrix.unpack_rows(own_T[is_own_T], rows_TD)
        out_TD[is_own_T] = rows_TD
