"""Inference requests of the Open Inference Protocol with binary tensors, as the bytes that go over the wire.

Source: the protocol's binary tensor data extension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from closed_loop import Answer

_DATATYPES = {"int64": "INT64", "float32": "FP32"}


def infer_request(model: str, inputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A whole HTTP request that asks for binary outputs."""
    described = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": _DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
    return http_post(f"/v2/models/{model}/infer", body, {"Inference-Header-Content-Length": len(head)})


def http_post(path: str, body: bytes, headers: Mapping[str, object] | None = None) -> bytes:
    """A whole HTTP request on a connection that stays open."""
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": "application/octet-stream",
        "Content-Length": len(body),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def only_output(answer: Answer) -> npt.NDArray[np.float32]:
    """The binary tensor of an answer with one fp32 output, flat."""
    return np.frombuffer(answer.body[answer.header("inference-header-content-length") :], dtype=np.float32)
