"""Compressed request bodies, bounded in what they unpack to."""

from __future__ import annotations

import zlib

from shoal.errors import InvalidRequest
from shoal.server.body import BodyTooLarge

_WBITS_AUTO = 32 + zlib.MAX_WBITS
"""Take both the gzip and the zlib form. Source: zlib manual, inflateInit2."""


def unpack(body: bytes | bytearray, encoding: str, limit_bytes: int) -> bytes | bytearray:
    """The body as it was before `Content-Encoding`.

    Raises:
        BodyTooLarge: it unpacks to more than `limit_bytes`.
        InvalidRequest: an unknown encoding, or not what it says.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise InvalidRequest(f"Content-Encoding {encoding!r} is not offered here: use gzip, deflate or none")
    unpacker = zlib.decompressobj(_WBITS_AUTO)
    try:
        unpacked = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding} data: {error}") from error
    if len(unpacked) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    if not unpacker.eof:
        raise InvalidRequest(f"the body ends in the middle of its {encoding} data")
    return unpacked
