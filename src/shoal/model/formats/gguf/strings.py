"""Arrays of strings in a GGUF header: each has its length in eight bytes, so that one leads to the next.

Vocabularies and their merges have hundreds of thousands, and every process that opens the file walks over them. In
Python a string takes a tenth of a microsecond to step over and half of one to read; the native form reads it in a
quarter of that.
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
    """Where the strings end that begin at `position`.

    Raises:
        ValueError, struct.error: behind the end of the data.
    """
    return skip_in_python(data, position, count) if _native is None else _native.skip_strings(data, position, count)


def read_strings(data: mmap | bytes, position: int, count: int) -> list[str]:
    """The strings that begin at `position`; what is not UTF-8 becomes U+FFFD. Raises as `skip_strings`."""
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
