"""Names of array types, so that signatures are short and every module says the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""Values of any type, such as a graph's inputs and outputs."""
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]
"""Small whole numbers, or bytes."""
U16 = npt.NDArray[np.uint16]
