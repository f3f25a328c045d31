"""Compressed request bodies, with a bound on their unpacked size."""

from __future__ import annotations

import zlib

from shoal.errors import InvalidRequest

MAX_RATIO = 1032
"""Most bytes that one compressed byte can become. Source: zlib, "Maximum Compression Factor"."""

_WBITS_AUTO = 32 + zlib.MAX_WBITS
"""Accept both the gzip and the zlib format. Source: zlib manual, inflateInit2."""

_PIECE_BYTES = 1 << 18
"""Bytes that are unpacked at once: zlib works without Python's lock, but its output is copied under it."""


def unpack(body: bytes | bytearray, encoding: str, limit_bytes: int) -> bytearray | None:
    """The body without its `Content-Encoding`; None if that is larger than `limit_bytes`.

    Raises:
        InvalidRequest: the encoding is unknown, or the body does not have it.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise InvalidRequest(f"Content-Encoding {encoding[:40]!r} is not supported: use gzip, deflate or none")
    unpacker = zlib.decompressobj(_WBITS_AUTO)
    unpacked, rest = bytearray(), body
    try:
        while not unpacker.eof and (piece := unpacker.decompress(rest, _PIECE_BYTES)):
            unpacked += piece
            if len(unpacked) > limit_bytes:
                return None
            rest = unpacker.unconsumed_tail
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding} data: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidRequest(f"the body ends in the middle of its {encoding} data, or continues after it")
    return unpacked
