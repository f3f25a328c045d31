"""Random changes to bytes: the kinds that break parsers."""

from __future__ import annotations

import random
from collections.abc import Sequence

MAX_BYTES = 4096
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_MARKERS = bytes((0x90, 0x9F, 0xC0, 0xC1, 0xC4, 0xC6, 0xCA, 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF))
"""MessagePack's bytes for lengths and kinds"""


def mutate(corpus: Sequence[bytes], source: random.Random, *, max_bytes: int = MAX_BYTES) -> bytes:
    """One of the corpus after one to six changes, cut at max_bytes."""
    data = bytearray(source.choice(corpus))
    for _ in range(source.randint(1, 6)):
        position = source.randint(0, len(data))
        match source.randrange(8):
            case 0:
                del data[position:]
            case 1:
                del data[position : position + source.randint(1, 8)]
            case 2:
                data[position:position] = source.randbytes(source.randint(1, 8))
            case 3 if position < len(data):
                data[position] ^= 1 << source.randrange(8)
            case 4 if position < len(data):
                data[position] = source.choice(_MARKERS)
            case 5:
                width = source.choice((1, 2, 4, 8))
                edge = source.choice(_EDGES) % (1 << 8 * width)
                data[position : position + width] = edge.to_bytes(width, source.choice(("little", "big")))
            case 6:
                other = source.choice(corpus)
                start = source.randint(0, len(other))
                data[position:] = other[start : start + source.randint(0, 64)]
            case _:
                end = position + source.randint(1, 16)
                data[position:position] = data[position:end] * source.randint(1, 4)
    return bytes(data[:max_bytes])
