"""Vectors of pictures that were computed lately: every turn of a conversation sends its pictures again."""

from __future__ import annotations

from collections import OrderedDict

MAX_KEPT_BYTES = 256 << 20
"""Some thirty pictures of a thousand vectors of 2048 columns."""


class KeptVectors:
    """The least recently used go first. Belongs to one event loop."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._vectors: OrderedDict[bytes, bytes] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: bytes) -> bytes | None:
        """Those of a picture; None: they are not here."""
        vectors = self._vectors.get(key)
        if vectors is not None:
            self._vectors.move_to_end(key)
        return vectors

    def put(self, key: bytes, vectors: bytes) -> None:
        """Keep them, unless they are larger than everything that may be kept."""
        if key in self._vectors or len(vectors) > self._max_bytes:
            return
        self._vectors[key] = vectors
        self._num_bytes += len(vectors)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= len(self._vectors.popitem(last=False)[1])
