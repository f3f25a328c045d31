"""Inputs of the fake graphs as Triton's clients want them; `client` is the module tritonclient.http or .grpc."""

from __future__ import annotations

from typing import Any

import numpy as np
from tritonclient.utils import np_to_triton_dtype

X = np.arange(8, dtype=np.float32).reshape(2, 4)
IDS = np.array([[1, -2, 3], [4, 5, 1 << 60]])


def tensor(client: Any, name: str, array: np.ndarray[Any, Any], **how: Any) -> Any:
    given = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return given.set_data_from_numpy(array, **how)


def doubler_inputs(client: Any, **how: Any) -> list[Any]:
    return [tensor(client, "x", X, **how), tensor(client, "ids", IDS, **how)]
