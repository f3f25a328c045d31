"""ModelInferRequest and ModelInferResponse to and from the inference that both dialects share."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.errors import InvalidRequest
from shoal.router.graph_executor import Array
from shoal.server.oip.datatypes import BYTES, datatype_of_array, dtype_of
from shoal.server.oip.inference import InferAnswer, InferCall, gather_inputs, timeout_from
from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.tensor_bytes import array_from_bytes, bytes_of_array, num_elements, text_of_element

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Where typed contents hold each datatype. Source: Open Inference Protocol v2, "Tensor Data"."""


def call_from(request: Any, remaining_s: float | None) -> InferCall:
    """Read a ModelInferRequest; arrays lie in its raw contents.

    Args:
        request: the message.
        remaining_s: until the client's own deadline; None: it has none.

    Raises:
        InvalidRequest: it is not what the protocol prescribes.
    """
    parameters = request.parameters
    timeouts_s = (timeout_from(_parameter(parameters, "timeout")), remaining_s)
    return InferCall(
        model_name=request.model_name,
        model_version=request.model_version,
        request_id=request.id,
        inputs=_inputs(request),
        outputs=tuple(_output_name(output) for output in request.outputs),
        timeout_s=min((timeout_s for timeout_s in timeouts_s if timeout_s is not None), default=None),
    )


def response_from(messages: Messages, answer: InferAnswer) -> Any:
    """A ModelInferResponse, always with raw contents, as Triton's are."""
    response = messages.new(
        "ModelInferResponse",
        model_name=answer.model_name,
        model_version=answer.model_version,
        id=answer.request_id,
    )
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=datatype_of_array(array), shape=array.shape)
        response.raw_output_contents.append(bytes(bytes_of_array(array)))
    return response


def _inputs(request: Any) -> dict[str, Array]:
    tensors = list(request.inputs)
    for tensor in tensors:
        if "shared_memory_region" in tensor.parameters:
            raise InvalidRequest(f"input {tensor.name!r}: shared memory is not offered here; send the data")
    if request.raw_input_contents:
        arrays = _raw_arrays(tensors, request.raw_input_contents)
    else:
        arrays = [_typed_array(tensor) for tensor in tensors]
    return gather_inputs([tensor.name for tensor in tensors], arrays)


def _raw_arrays(tensors: list[Any], raws: Any) -> list[Array]:
    if len(raws) != len(tensors):
        raise InvalidRequest(f"there are {len(tensors)} inputs, but {len(raws)} raw_input_contents")
    for tensor in tensors:
        if tensor.HasField("contents"):
            raise InvalidRequest(f"input {tensor.name!r} has both `contents` and raw_input_contents: give one of them")
    return [
        array_from_bytes(tensor.name, tensor.datatype, tuple(tensor.shape), raw)
        for tensor, raw in zip(tensors, raws, strict=True)
    ]


def _typed_array(tensor: Any) -> Array:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if datatype not in _CONTENTS:
        dtype_of(datatype, name)
        raise InvalidRequest(f"input {name!r}: {datatype} has no typed contents; use raw_input_contents")
    values = getattr(tensor.contents, _CONTENTS[datatype])
    count = num_elements(name, shape)
    if len(values) != count:
        raise InvalidRequest(
            f"input {name!r} has {len(values)} values in {_CONTENTS[datatype]}, but a tensor of the shape "
            f"{list(shape)} has {count}"
        )
    if datatype == BYTES:
        array = np.empty(count, dtype=object)
        array[:] = [text_of_element(name, value) for value in values]
        return array.reshape(shape)
    try:
        return np.array(values, dtype=dtype_of(datatype, name)).reshape(shape)
    except OverflowError as error:
        raise InvalidRequest(f"input {name!r} holds a value outside of {datatype}") from error


def _output_name(output: Any) -> str:
    if _parameter(output.parameters, "classification"):
        raise InvalidRequest(f"output {output.name!r}: classification is not offered here; ask for the tensor")
    if "shared_memory_region" in output.parameters:
        raise InvalidRequest(f"output {output.name!r}: shared memory is not offered here")
    return output.name


def _parameter(parameters: Any, name: str) -> object:
    """A parameter's value of whatever type; None where there is none. (Reading a map would add the key.)"""
    if name not in parameters:
        return None
    choice = parameters[name].WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameters[name], choice)
