"""What an inference request holds, counted on its bytes before it is parsed.

Two bytes make an empty submessage of a hundred in memory, so the size of a message says little about what it takes.
Source: Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from shoal.errors import InvalidRequest

MAX_FIELDS = 4_096
"""Of the request, and of all its inputs together: tensors, parameters, sizes."""
MAX_SHAPE_BYTES = 1_024
MAX_CONTENTS_BYTES = 1 << 20
"""Of an input's typed contents, each of which becomes an object of Python."""

_INPUTS = 5
_SHAPE, _CONTENTS = 3, 5


def check_request(message: bytes) -> None:
    """Raises InvalidRequest for a ModelInferRequest that holds too much, or whose bytes are none."""
    num_fields = 0
    for number, start, end in _fields(message, 0, len(message)):
        num_fields += 1
        if number == _INPUTS:
            for inner, inner_start, inner_end in _fields(message, start, end):
                num_fields += 1
                size = inner_end - inner_start
                if inner == _SHAPE and size > MAX_SHAPE_BYTES:
                    raise InvalidRequest(f"an input has a shape of {size} bytes: at most {MAX_SHAPE_BYTES}")
                if inner == _CONTENTS and size > MAX_CONTENTS_BYTES:
                    raise InvalidRequest(
                        f"an input has {size} bytes of typed contents: send more than {MAX_CONTENTS_BYTES} in "
                        "raw_input_contents"
                    )
                _check(num_fields)
        _check(num_fields)


def _check(num_fields: int) -> None:
    if num_fields > MAX_FIELDS:
        raise InvalidRequest(f"the request has more than {MAX_FIELDS} tensors, parameters and sizes")


def _fields(message: bytes, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field's value. Raises InvalidRequest."""
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
        yield tag >> 3, first, end
        first = end


def _varint(message: bytes, first: int, last: int) -> tuple[int, int]:
    """A number of up to 64 bits, and where it ends. Raises InvalidRequest."""
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
