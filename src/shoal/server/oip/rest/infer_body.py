"""The body of an inference request: a JSON object, followed by the bytes of binary tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.server.bodies.json_bounds import JsonBounds, check_json
from shoal.server.oip.inference import InferCall, gather_inputs, timeout_from
from shoal.server.oip.tensor_bytes import array_from_bytes
from shoal.server.oip.tensor_json import array_from_json, array_from_json_text

_NOT_FINITE = (b"NaN", b"Infinity")
"""Words that are not JSON, but that Triton's clients write."""


class _TensorParameters(msgspec.Struct):
    binary_data_size: int | None = None
    shared_memory_region: str | None = None


_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_NULL = msgspec.Raw(b"null")
_Scalar = int | float | str | bool | None


class _Input(msgspec.Struct):
    name: _Name
    shape: list[int]
    datatype: _Name
    parameters: _TensorParameters | None = None
    data: Any = None

    @property
    def has_data(self) -> bool:
        return self.data is not None


class _LargeInput(msgspec.Struct):
    """As `_Input`, with fields that may be long left as text."""

    name: _Name
    shape: msgspec.Raw
    datatype: _Name
    parameters: _TensorParameters | None = None
    data: msgspec.Raw = _NULL
    """Undecoded JSON. It is not `msgspec.Raw | None`, which would accept only null."""

    @property
    def has_data(self) -> bool:
        return memoryview(self.data) != memoryview(_NULL)


class _OutputParameters(msgspec.Struct):
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class _Output(msgspec.Struct):
    name: _Name
    parameters: _OutputParameters | None = None


class _RequestParameters(msgspec.Struct):
    binary_data_output: bool = False
    timeout: _Scalar = None


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: _Name | None = None
    parameters: _RequestParameters | None = None
    outputs: list[_Output] | None = None


class _LargeBody(msgspec.Struct):
    inputs: list[_LargeInput]
    id: _Name | None = None
    parameters: _RequestParameters | None = None
    outputs: list[_Output] | None = None


class ParsedBody(msgspec.Struct, frozen=True, kw_only=True):
    """A call, and the format of its outputs."""

    call: InferCall
    binary_outputs: frozenset[str]
    """Outputs that were asked for as binary tensors."""
    is_binary_default: bool
    """Whether outputs that were not named are written as binary tensors."""

    def is_binary(self, name: str) -> bool:
        """Whether to write an output as a binary tensor."""
        return name in self.binary_outputs or (self.is_binary_default and not self.call.outputs)


_decoder = msgspec.json.Decoder(_Body)
_large_decoder = msgspec.json.Decoder(_LargeBody)
_shape_decoder = msgspec.json.Decoder(list[int])

SMALL_JSON_BYTES = 1 << 14
"""JSON up to this size is read as a whole, which takes a few milliseconds whatever it contains."""
MAX_JSON_BYTES = 8 << 20
"""Most bytes of a request's JSON; binary tensors may have more. A picture of 512 x 512 x 3 bytes fits, and skipping
over it, which must be done at once, takes a few hundredths of a second."""
_BOUNDS = JsonBounds(max_items=2_000_000, max_groups=2_000_000, max_fields=20_000)
"""Nested data may have a list around each value: no list is created for it."""
_MAX_SHAPE_BYTES = 1_024


def parse_body(body: bytes | bytearray, json_size: int | None, *, model_name: str, model_version: str) -> ParsedBody:
    """Read a request. Arrays of binary tensors lie in `body`, which must not change.

    Args:
        body: the whole body.
        json_size: the header `Inference-Header-Content-Length`; None: there are no binary tensors.
        model_name: from the path.
        model_version: from the path; may be empty.

    Raises:
        InvalidRequest: the body does not follow the protocol.
    """
    view = memoryview(body)
    if json_size is not None and json_size > len(view):
        raise InvalidRequest(f"Inference-Header-Content-Length is {json_size}, but the body has {len(view)} bytes")
    if (json_size or len(view)) > MAX_JSON_BYTES:
        raise InvalidRequest(f"JSON may have at most {MAX_JSON_BYTES} bytes: send large inputs as binary tensors")
    head = view if json_size is None else view[:json_size]
    parsed = _decode(head)
    parameters = parsed.parameters or _RequestParameters()
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


def _decode(head: memoryview) -> _Body | _LargeBody:
    is_large = len(head) > SMALL_JSON_BYTES
    if is_large:
        check_json(head, _BOUNDS)
    try:
        return _large_decoder.decode(head) if is_large else _decoder.decode(head)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an inference request: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if is_large or not any(word in bytes(head) for word in _NOT_FINITE):
            way_out = "; large inputs that hold NaN or infinity go as binary tensors" if is_large else ""
            raise InvalidRequest(f"the body is not JSON: {error}{way_out}") from error
        return _decode_not_finite(bytes(head))


def _decode_not_finite(head: bytes) -> _Body:
    try:
        return msgspec.convert(json.loads(head), _Body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not an inference request: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error


def _inputs(given: Sequence[_Input | _LargeInput], binary: memoryview) -> dict[str, Array]:
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
        if tensor.has_data:
            raise InvalidRequest(f"input {tensor.name!r} has both `data` and `binary_data_size`: give one of them")
        arrays.append(array_from_bytes(tensor.name, tensor.datatype, _shape(tensor), binary[first : first + size]))
        first += size
    if first != len(binary):
        raise InvalidRequest(f"{len(binary) - first} bytes of binary data belong to no input")
    return gather_inputs([tensor.name for tensor in given], arrays)


def _shape(tensor: _Input | _LargeInput) -> list[int]:
    if isinstance(tensor, _Input):
        return tensor.shape
    text = bytes(tensor.shape)
    try:
        return _shape_decoder.decode(text[:_MAX_SHAPE_BYTES])
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"input {tensor.name!r} has an impossible `shape`: {error}") from error


def _json_array(tensor: _Input | _LargeInput) -> Array:
    if tensor.parameters is not None and tensor.parameters.shared_memory_region is not None:
        raise InvalidRequest(f"input {tensor.name!r}: shared memory is not supported; send the data")
    if not tensor.has_data:
        raise InvalidRequest(f"input {tensor.name!r} has neither `data` nor `binary_data_size`")
    if isinstance(tensor, _Input):
        return array_from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)
    return array_from_json_text(tensor.name, tensor.datatype, _shape(tensor), memoryview(tensor.data))


def _wants_binary(output: _Output, default: bool) -> bool:
    parameters = output.parameters
    if parameters is None:
        return default
    if parameters.classification:
        raise InvalidRequest(f"output {output.name!r}: classification is not supported; ask for the tensor")
    if parameters.shared_memory_region is not None:
        raise InvalidRequest(f"output {output.name!r}: shared memory is not supported")
    return default if parameters.binary_data is None else parameters.binary_data
