"""Arrays of strings in a GGUF header, where each string follows its length in eight bytes.

Vocabularies and their merges have hundreds of thousands of strings, and every process that opens the file walks over
them. Python takes a tenth of a microsecond to step over a string and half of one to read it; the native form reads it
in a quarter of that.
Source: GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import struct
from mmap import mmap

try:
    from shoal import _native
except ImportError:
    _native = None

_LENGTH = struct.Struct("<Q")


def skip_strings(data: mmap | bytes, position: int, count: int) -> int:
    """The position behind `count` strings that begin at `position`.

    Raises:
        ValueError, struct.error: the strings end behind the end of the data.
    """
    return skip_in_python(data, position, count) if _native is None else _native.skip_strings(data, position, count)


def read_strings(data: mmap | bytes, position: int, count: int) -> list[str]:
    """`count` strings that begin at `position`; bytes that are not UTF-8 become U+FFFD. Raises as `skip_strings`."""
    return read_in_python(data, position, count) if _native is None else _native.read_strings(data, position, count)


def skip_in_python(data: mmap | bytes, position: int, count: int) -> int:
    """See `skip_strings`."""
    unpack = _LENGTH.unpack_from
    for _ in range(count):
        position += 8 + unpack(data, position)[0]
    return _checked(position, data)


def read_in_python(data: mmap | bytes, position: int, count: int) -> list[str]:
    """See `read_strings`."""
    unpack, strings = _LENGTH.unpack_from, list[str]()
    for _ in range(count):
        start = position + 8
        position = start + unpack(data, position)[0]
        strings.append(data[start:position].decode("utf-8", errors="replace"))
    _checked(position, data)
    return strings


def _checked(position: int, data: mmap | bytes) -> int:
    if position > len(data):
        raise ValueError("a string that is longer than the file")
    return position
