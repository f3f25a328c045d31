"""Converts ModelInferRequest and ModelInferResponse from and to the inference that both dialects share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.server.oip.datatypes import BYTES, datatype_of_array, dtype_of
from shoal.server.oip.inference import InferAnswer, InferCall, gather_inputs, timeout_from
from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.rpc.wire_check import split_request
from shoal.server.oip.tensor_bytes import array_from_bytes, bytes_of_array, check_strings, num_elements, text_of_element

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
"""Field of the typed contents for each datatype. Source: Open Inference Protocol v2, "Tensor Data"."""
_PIECE_ELEMENTS = 1 << 14
"""Typed values are read this many at a time, so that other threads get Python's lock in between."""
_RAW_OUTPUT_CONTENTS = 6
_INFER_RESPONSE = 2
"""Field numbers. Source: as `schema`."""


MAX_HEAD_BYTES = 4 << 20
"""Most bytes of a request without its raw contents: typed contents, names and parameters, which are parsed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A ModelInferRequest, parsed without the copy that Protocol Buffers would make."""

    message: Any
    """The message without raw_input_contents."""
    raws: Sequence[memoryview]
    """Its raw_input_contents, as views of the received bytes."""


def parse_request(messages: Messages, message: bytes) -> InferRequest:
    """Parse received bytes, which must not change. Raises InvalidRequest."""
    head, raws = split_request(message)
    if len(head) > MAX_HEAD_BYTES:
        raise InvalidRequest(
            f"the request has {len(head)} bytes beside raw_input_contents, but at most {MAX_HEAD_BYTES} are allowed"
        )
    return InferRequest(message=messages.parsed("ModelInferRequest", head), raws=raws)


def call_from(given: InferRequest, remaining_s: float | None) -> InferCall:
    """Read a request; its arrays are views of its raw contents.

    Args:
        given: the request.
        remaining_s: until the client's own deadline; None: it has none.

    Raises:
        InvalidRequest: the request does not follow the protocol.
    """
    request, parameters = given.message, given.message.parameters
    timeouts_s = (timeout_from(_parameter(parameters, "timeout")), remaining_s)
    return InferCall(
        model_name=request.model_name,
        model_version=request.model_version,
        request_id=request.id,
        inputs=_inputs(request, given.raws),
        outputs=tuple(_output_name(output) for output in request.outputs),
        timeout_s=min((timeout_s for timeout_s in timeouts_s if timeout_s is not None), default=None),
    )


def response_bytes(messages: Messages, answer: InferAnswer, *, is_told_final: bool = False) -> bytes:
    """The bytes of a ModelInferResponse, always with raw contents, as Triton's are.

    Args:
        messages: the classes.
        answer: to the request.
        is_told_final: whether to mark it as the request's last answer, which it always is.
    """
    head = messages.new(
        "ModelInferResponse",
        model_name=answer.model_name,
        model_version=answer.model_version,
        id=answer.request_id,
    )
    if is_told_final:
        head.parameters["triton_final_response"].bool_param = True
    raws: list[bytes | memoryview] = []
    for name, array in answer.outputs.items():
        head.outputs.add(name=name, datatype=datatype_of_array(array), shape=array.shape)
        raw = bytes_of_array(array)
        raws += (_field_head(_RAW_OUTPUT_CONTENTS, len(raw)), raw)
    return b"".join([head.SerializeToString(), *raws])


def stream_response_bytes(response: bytes) -> bytes:
    """A ModelStreamInferResponse around a ModelInferResponse."""
    return b"".join((_field_head(_INFER_RESPONSE, len(response)), response))


def _field_head(number: int, num_bytes: int) -> bytes:
    """The bytes before the content of a field. Source: Protocol Buffers, "Encoding", length-delimited records."""
    head = bytearray([number << 3 | 2])
    while num_bytes > 0x7F:
        head.append(num_bytes & 0x7F | 0x80)
        num_bytes >>= 7
    head.append(num_bytes)
    return bytes(head)


def _inputs(request: Any, raws: Sequence[memoryview]) -> dict[str, Array]:
    tensors = list(request.inputs)
    for tensor in tensors:
        if "shared_memory_region" in tensor.parameters:
            raise InvalidRequest(f"input {tensor.name!r}: shared memory is not supported; send the data")
    arrays = _raw_arrays(tensors, raws) if raws else [_typed_array(tensor) for tensor in tensors]
    return gather_inputs([tensor.name for tensor in tensors], arrays)


def _raw_arrays(tensors: list[Any], raws: Sequence[memoryview]) -> list[Array]:
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
        check_strings(name, count, 0)
        array = np.empty(count, dtype=object)
        array[:] = [text_of_element(name, value) for value in values]
        return array.reshape(shape)
    array = np.empty(count, dtype_of(datatype, name))
    try:
        for first in range(0, count, _PIECE_ELEMENTS):
            last = first + _PIECE_ELEMENTS
            array[first:last] = np.array(values[first:last], array.dtype)
    except OverflowError as error:
        raise InvalidRequest(f"input {name!r} has a value that does not fit {datatype}") from error
    return array.reshape(shape)


def _output_name(output: Any) -> str:
    if _parameter(output.parameters, "classification"):
        raise InvalidRequest(f"output {output.name!r}: classification is not supported; ask for the tensor")
    if "shared_memory_region" in output.parameters:
        raise InvalidRequest(f"output {output.name!r}: shared memory is not supported")
    return output.name


def _parameter(parameters: Any, name: str) -> object:
    """A parameter's value of any type; None if there is none. (Reading a map would add the key.)"""
    if name not in parameters:
        return None
    choice = parameters[name].WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameters[name], choice)
