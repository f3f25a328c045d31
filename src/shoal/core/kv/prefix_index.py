"""The index of cached KV blocks: full blocks, found by a digest that is chained over everything before them.

A block's digest covers its own tokens, the keys of pictures with rows in it and its predecessor's digest; the first
block's also covers the adapter. Equal digests therefore mean equal contexts from the first token on. A token's keys and
values depend on that context alone, whether it was read or generated (decision 0026), so the next turn of a
conversation finds the answers as well as the earlier prompts.

Source: the idea of hash-chained blocks is vLLM's automatic prefix caching; eviction is least recently used.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from shoal.core.kv.first_blocks import FirstBlocks
from shoal.core.sequences.pictures import Pictures

DIGEST_BYTES = 16
"""128 bits: among 2**32 blocks the chance of any two colliding is below 2**-64 (birthday bound)."""
_NOTHING = blake2b(digest_size=DIGEST_BYTES)
"""The hash before anything is in it. Copying it takes less time than making one with this size of a digest."""


def extend_digests(
    digests: list[bytes],
    token_ids: array[int],
    block_size: int,
    num_full_blocks: int,
    root: bytes = b"",
    pictures: Pictures | None = None,
) -> None:
    """Append the digests of the full blocks up to `num_full_blocks` that `digests` lacks.

    Args:
        digests: digests of the leading blocks. Mutates: grows.
        token_ids: tokens of the sequence.
        block_size: tokens in a block.
        num_full_blocks: the number of digests wanted.
        root: what else the sequence's keys and values depend on, see `Request.root`.
        pictures: pictures with rows among these tokens.
    """
    parent, first = digests[-1] if digests else root, len(digests)
    if first >= num_full_blocks:
        return
    block_bytes = block_size * token_ids.itemsize
    content = token_ids[first * block_size : num_full_blocks * block_size].tobytes()
    for block, at in enumerate(range(0, len(content), block_bytes), first):
        told = parent + content[at : at + block_bytes]
        if pictures is not None:
            told += pictures.keys_within(block * block_size, (block + 1) * block_size)
        hashed = _NOTHING.copy()
        hashed.update(told)
        parent = hashed.digest()
        digests.append(parent)


def reusable_digests(
    prompt_ids: Sequence[int], block_size: int, root: bytes = b"", pictures: Pictures | None = None
) -> list[bytes]:
    """Digests of the blocks of a prompt that may be reused: all full blocks without the prompt's last row."""
    digests: list[bytes] = []
    extend_digests(digests, array("i", prompt_ids), block_size, (len(prompt_ids) - 1) // block_size, root, pictures)
    return digests


class PrefixIndex:
    """A map from digests to blocks, with the order in which unreferenced blocks are evicted."""

    __slots__ = ("_block_of", "_digest_of", "_first", "_replica", "_told", "_unreferenced")

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._unreferenced: OrderedDict[int, None] = OrderedDict()
        """Blocks that can be evicted, least recently used first."""
        self._first: set[bytes] = set()
        """Digests of the first blocks of contexts."""
        self._told: FirstBlocks | None = None
        """What is told of changes in `_first`, and by which replica; None: nobody asks."""
        self._replica = -1

    @property
    def num_cached(self) -> int:
        """Blocks in the index, referenced or not."""
        return len(self._digest_of)

    @property
    def num_evictable(self) -> int:
        """Blocks in the index that no sequence references."""
        return len(self._unreferenced)

    def __contains__(self, block: int) -> bool:
        return block in self._digest_of

    def tell(self, told: FirstBlocks, replica: int) -> None:
        """Tell which first blocks the index has, now and after each change, as those of this replica."""
        self._told, self._replica = told, replica
        for digest in self._first:
            told.add(digest, replica)

    def stop_telling(self) -> None:
        """Withdraw what was told, because the index is no longer used."""
        if self._told is not None:
            self._told.drop(self._first, self._replica)
            self._told = None

    def lookup(self, digests: Sequence[bytes]) -> list[int]:
        """The blocks of the longest indexed prefix of the chain, in order."""
        found: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def register(self, digest: bytes, block: int, *, is_first: bool = False) -> bool:
        """Enter a referenced, fully computed block. Returns False if its digest or the block itself is already in.

        `is_first`: whether it is the first block of its context.
        """
        if digest in self._block_of or block in self._digest_of:
            return False
        if is_first:
            self._first.add(digest)
            if self._told is not None:
                self._told.add(digest, self._replica)
        self._block_of[digest] = block
        self._digest_of[block] = digest
        return True

    def retire(self, block: int) -> bool:
        """Keep a block whose last reference is gone as the most recently used one, if it is indexed. Returns whether it
        is."""
        if block not in self._digest_of:
            return False
        self._unreferenced[block] = None
        return True

    def revive(self, block: int) -> None:
        """Make a block that is referenced again unevictable."""
        del self._unreferenced[block]

    def evict(self) -> int:
        """Remove and return the least recently used unreferenced block. There must be one."""
        block, _ = self._unreferenced.popitem(last=False)
        digest = self._digest_of.pop(block)
        del self._block_of[digest]
        if digest in self._first:
            self._first.remove(digest)
            if self._told is not None:
                self._told.drop((digest,), self._replica)
        return block
