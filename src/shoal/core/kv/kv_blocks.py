"""Reference counts over a fixed number of KV blocks.

A block is free, referenced, or cached (unreferenced, but its content is still in the prefix index and can be revived).
"""

from __future__ import annotations

from collections.abc import Iterable

from shoal.core.kv.prefix_index import PrefixIndex


class KvBlocks:
    """The blocks of one replica. Every stage uses the same numbers for its own memory."""

    __slots__ = ("_free", "_references", "index")

    def __init__(self, num_blocks: int) -> None:
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self.index = PrefixIndex()

    @property
    def num_blocks(self) -> int:
        return len(self._references)

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated, including cached ones."""
        return len(self._free) + self.index.num_evictable

    def references(self, block: int) -> int:
        """How many sequences hold the block."""
        return self._references[block]

    def all_references(self) -> list[int]:
        """How many sequences hold each block."""
        return self._references.copy()

    def allocate(self) -> int | None:
        """Allocate a block with one reference and undefined content; None if every block is referenced."""
        if self._free:
            block = self._free.pop()
        elif self.index.num_evictable:
            block = self.index.evict()
        else:
            return None
        self._references[block] = 1
        return block

    def allocate_all(self, count: int) -> list[int]:
        """`allocate` so many blocks, of which there must be enough."""
        if count <= len(self._free):
            taken = self._free[: -count - 1 : -1]
            del self._free[len(self._free) - count :]
        else:
            taken = self._free[::-1]
            self._free.clear()
            taken += [self.index.evict() for _ in range(count - len(taken))]
        references = self._references
        for block in taken:
            references[block] = 1
        return taken

    def share(self, block: int) -> None:
        """Add a reference to a block of the prefix index."""
        if self._references[block] == 0:
            self.index.revive(block)
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Drop a reference. After the last one the block is free, or cached if the prefix index has it."""
        self.release_all((block,))

    def release_all(self, blocks: Iterable[int]) -> None:
        """`release` these blocks in order."""
        references, free, retire = self._references, self._free, self.index.retire
        for block in blocks:
            count = references[block] = references[block] - 1
            assert count >= 0, f"block {block} released more often than held"
            if not count and not retire(block):
                free.append(block)

    def num_unreferenced(self, blocks: Iterable[int]) -> int:
        """How many of these cached blocks would stop being free if they were shared."""
        references = self._references
        return sum(1 for block in blocks if references[block] == 0)
