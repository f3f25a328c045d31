"""A cache of pictures' vectors, because every turn of a conversation sends its pictures again."""

from __future__ import annotations

from collections import OrderedDict

MAX_KEPT_BYTES = 256 << 20
"""About thirty pictures of a thousand vectors with 2048 columns."""


class KeptVectors:
    """Removes the least recently used vectors first. Belongs to one event loop."""

    def __init__(self, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._vectors: OrderedDict[bytes, bytes] = OrderedDict()
        self._num_bytes = 0

    def get(self, key: bytes) -> bytes | None:
        """The vectors of a picture; None: they are not in the cache."""
        vectors = self._vectors.get(key)
        if vectors is not None:
            self._vectors.move_to_end(key)
        return vectors

    def put(self, key: bytes, vectors: bytes) -> None:
        """Store vectors, unless they are larger than the whole cache."""
        if key in self._vectors or len(vectors) > self._max_bytes:
            return
        self._vectors[key] = vectors
        self._num_bytes += len(vectors)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= len(self._vectors.popitem(last=False)[1])
