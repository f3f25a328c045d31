"""The body of an inference request: a JSON object, and behind it the bytes of binary tensors."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shoal.errors import InvalidRequest
from shoal.router.graph_executor import Array
from shoal.server.oip.inference import InferCall, gather_inputs, refuse_sequences, timeout_from
from shoal.server.oip.tensor_bytes import array_from_bytes
from shoal.server.oip.tensor_json import array_from_json

_NOT_FINITE = (b"NaN", b"Infinity")
"""Words that JSON has not, but that Triton's clients write."""


class _TensorParameters(msgspec.Struct):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: _TensorParameters | None = None
    data: Any = None


class _OutputParameters(msgspec.Struct):
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _OutputParameters | None = None


class _RequestParameters(msgspec.Struct):
    binary_data_output: bool = False
    timeout: Any = None
    sequence_id: Any = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: _RequestParameters | None = None
    outputs: list[_Output] | None = None


class ParsedBody(msgspec.Struct, frozen=True, kw_only=True):
    """A call, and how its outputs are to be written."""

    call: InferCall
    binary_outputs: frozenset[str]
    """outputs asked for as binary tensors"""
    is_binary_default: bool
    """whether outputs that were not named are"""

    def is_binary(self, name: str) -> bool:
        """Whether to write an output as a binary tensor."""
        return name in self.binary_outputs or (self.is_binary_default and not self.call.outputs)


_decoder = msgspec.json.Decoder(_Body)


def parse_body(body: bytes | bytearray, json_size: int | None, *, model_name: str, model_version: str) -> ParsedBody:
    """Read a request. Arrays of binary tensors lie in `body`, which must not change.

    Args:
        body: everything that came.
        json_size: the header `Inference-Header-Content-Length`; None: there are no binary tensors.
        model_name: from the path.
        model_version: from the path; may be empty.

    Raises:
        InvalidRequest: it is not what the protocol prescribes.
    """
    view = memoryview(body)
    if json_size is not None and json_size > len(view):
        raise InvalidRequest(f"Inference-Header-Content-Length is {json_size}, but the body has {len(view)} bytes")
    head = view if json_size is None else view[:json_size]
    parsed = _decode(head)
    parameters = parsed.parameters or _RequestParameters()
    refuse_sequences(parameters.sequence_id)
    outputs = parsed.outputs or []
    call = InferCall(
        model_name=model_name,
        model_version=model_version,
        request_id=parsed.id or "",
        inputs=_inputs(parsed.inputs, view[len(head) :]),
        outputs=tuple(output.name for output in outputs),
        timeout_s=timeout_from(parameters.timeout),
    )
    default = parameters.binary_data_output
    return ParsedBody(
        call=call,
        binary_outputs=frozenset(output.name for output in outputs if _wants_binary(output, default)),
        is_binary_default=default,
    )


def _decode(head: memoryview) -> _Body:
    try:
        return _decoder.decode(head)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an inference request: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if any(word in bytes(head) for word in _NOT_FINITE):
            return _decode_not_finite(bytes(head))
        raise InvalidRequest(f"the body is not JSON: {error}") from error


def _decode_not_finite(head: bytes) -> _Body:
    try:
        return msgspec.convert(json.loads(head), _Body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an inference request: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error


def _inputs(given: list[_Input], binary: memoryview) -> dict[str, Array]:
    arrays: list[Array] = []
    first = 0
    for tensor in given:
        size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
        if size is None:
            arrays.append(_json_array(tensor))
            continue
        if not 0 <= size <= len(binary) - first:
            raise InvalidRequest(
                f"input {tensor.name!r}: binary_data_size is {size}, but {len(binary) - first} bytes are left"
            )
        if tensor.data is not None:
            raise InvalidRequest(f"input {tensor.name!r} has both `data` and `binary_data_size`: give one of them")
        arrays.append(array_from_bytes(tensor.name, tensor.datatype, tensor.shape, binary[first : first + size]))
        first += size
    if first != len(binary):
        raise InvalidRequest(f"{len(binary) - first} bytes of binary data belong to no input")
    return gather_inputs([tensor.name for tensor in given], arrays)


def _json_array(tensor: _Input) -> Array:
    if tensor.parameters is not None and tensor.parameters.shared_memory_region is not None:
        raise InvalidRequest(f"input {tensor.name!r}: shared memory is not offered here; send the data")
    if tensor.data is None:
        raise InvalidRequest(f"input {tensor.name!r} has neither `data` nor `binary_data_size`")
    return array_from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)


def _wants_binary(output: _Output, default: bool) -> bool:
    parameters = output.parameters
    if parameters is None:
        return default
    if parameters.classification:
        raise InvalidRequest(f"output {output.name!r}: classification is not offered here; ask for the tensor")
    if parameters.shared_memory_region is not None:
        raise InvalidRequest(f"output {output.name!r}: shared memory is not offered here")
    return default if parameters.binary_data is None else parameters.binary_data
