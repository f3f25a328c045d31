"""Which replicas of a fleet have cached the first block of a context, so that none of the others is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class FirstBlocks:
    """Replicas by the digests of first blocks in their prefix indices."""

    __slots__ = ("_holders",)

    def __init__(self) -> None:
        self._holders: dict[bytes, list[int]] = {}

    def holders(self, digest: bytes) -> Sequence[int]:
        """The replicas that have cached this block; valid until the next change."""
        return self._holders.get(digest, ())

    def add(self, digest: bytes, replica: int) -> None:
        """Note that a replica has cached a block."""
        self._holders.setdefault(digest, []).append(replica)

    def drop(self, digests: Iterable[bytes], replica: int) -> None:
        """Note that a replica has these blocks, each of which was added, no longer."""
        for digest in digests:
            holders = self._holders[digest]
            holders.remove(replica)
            if not holders:
                del self._holders[digest]
