"""Counts what an inference request contains, in its bytes and before it is parsed; raw tensors are left in place.

Two bytes can become an empty submessage of a hundred bytes in memory, so the size of a message says little about its
cost.
Source: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.errors import InvalidRequest

MAX_FIELDS = 4_096
"""Limit for the fields of the request and of all its inputs together: tensors, parameters, sizes."""
MAX_SHAPE_BYTES = 1_024
MAX_CONTENTS_BYTES = 1 << 20
"""Limit for all inputs' typed contents, each of which becomes a Python object."""

_INPUTS = 5
_RAW_CONTENTS = 7
_BYTES_TYPE = 2
_SHAPE, _CONTENTS = 3, 5


def split_request(message: bytes) -> tuple[bytes, list[memoryview]]:
    """A ModelInferRequest without its raw_input_contents, and these as views of `message`.

    Raises:
        InvalidRequest: the request contains too much, or its bytes are malformed.
    """
    view = memoryview(message)
    head: list[memoryview] = []
    raws: list[memoryview] = []
    num_fields = num_contents_bytes = begin = 0
    for number, wire_type, start, end in _fields(message, 0, len(message)):
        num_fields += 1
        if number == _RAW_CONTENTS and wire_type == _BYTES_TYPE:
            raws.append(view[start:end])
        else:
            head.append(view[begin:end])
        begin = end
        if number == _INPUTS and wire_type == _BYTES_TYPE:
            for inner, _, inner_start, inner_end in _fields(message, start, end):
                num_fields += 1
                size = inner_end - inner_start
                if inner == _SHAPE and size > MAX_SHAPE_BYTES:
                    raise InvalidRequest(
                        f"an input has a shape of {size} bytes, but at most {MAX_SHAPE_BYTES} are allowed"
                    )
                num_contents_bytes += size if inner == _CONTENTS else 0
                _check(num_fields, num_contents_bytes)
        _check(num_fields, num_contents_bytes)
    return b"".join(head), raws


def _check(num_fields: int, num_contents_bytes: int) -> None:
    if num_contents_bytes > MAX_CONTENTS_BYTES:
        raise InvalidRequest(
            f"the inputs have {num_contents_bytes} bytes of typed contents, but at most {MAX_CONTENTS_BYTES} "
            "are allowed: use raw_input_contents"
        )
    if num_fields > MAX_FIELDS:
        raise InvalidRequest(f"the request has more than {MAX_FIELDS} tensors, parameters and sizes")


def _fields(message: bytes, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, begin and end of each field's value. Raises InvalidRequest."""
    while first < last:
        tag, first = _varint(message, first, last)
        match tag & 7:
            case 0:
                _, end = _varint(message, first, last)
            case 1:
                end = first + 8
            case 2:
                size, first = _varint(message, first, last)
                end = first + size
            case 5:
                end = first + 4
            case _:
                raise InvalidRequest("the message is not a ModelInferRequest")
        if end > last:
            raise InvalidRequest("the message ends in the middle of a field")
        yield tag >> 3, tag & 7, first, end
        first = end


def _varint(message: bytes, first: int, last: int) -> tuple[int, int]:
    """A number of up to 64 bits, and the position after it. Raises InvalidRequest."""
    value = 0
    for shift in range(0, 70, 7):
        if first >= last:
            break
        byte = message[first]
        first += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, first
    raise InvalidRequest("the message ends in the middle of a number")
