"""The body of an inference answer: a JSON object, followed by the bytes of binary tensors."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.arrays import Array
from shoal.server.oip.datatypes import datatype_of_array
from shoal.server.oip.inference import InferAnswer
from shoal.server.oip.rest.infer_body import ParsedBody
from shoal.server.oip.tensor_bytes import bytes_of_array
from shoal.server.oip.tensor_json import json_of_array


def encode_answer(answer: InferAnswer, request: ParsedBody) -> list[bytes | memoryview]:
    """The body's pieces: its JSON part, and the bytes of each binary tensor."""
    pieces: list[bytes | memoryview] = [b""]
    outputs: list[dict[str, Any]] = []
    for name, array in answer.outputs.items():
        output = _described(name, array)
        if request.is_binary(name):
            raw = bytes_of_array(array)
            output["parameters"] = {"binary_data_size": len(raw)}
            pieces.append(raw)
        else:
            output["data"] = msgspec.Raw(json_of_array(array))
        outputs.append(output)
    pieces[0] = msgspec.json.encode(_head(answer) | {"outputs": outputs})
    return pieces


def _head(answer: InferAnswer) -> dict[str, Any]:
    head = {"model_name": answer.model_name, "model_version": answer.model_version}
    return {"id": answer.request_id, **head} if answer.request_id else head


def _described(name: str, array: Array) -> dict[str, Any]:
    return {"name": name, "datatype": datatype_of_array(array), "shape": list(array.shape)}
