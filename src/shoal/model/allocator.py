"""Settings of the C library's allocator while weights are loaded. They have an effect with glibc only.

Loading a stage frees several times as much memory as it keeps. Freed pieces of the heap that lie between kept ones do
not go back to the system: 10 % of a stage's memory, and more with small layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Source: malloc.h of glibc."""
_LOADING_BYTES = 1 << 20
_RUNNING_BYTES = 32 << 20
"""Size from which glibc gives an allocation a mapping of its own, which goes back to the system when it is freed. 32
MB is the most that glibc's own adaptive threshold reaches, so that a step's buffers stay in the heap. Source:
mallopt(3)."""


@contextmanager
def compact_loading() -> Iterator[None]:
    """In the block, every larger allocation has a mapping of its own, which goes back to the system when it is
    freed."""
    _set_threshold(_LOADING_BYTES)
    try:
        yield
    finally:
        _set_threshold(_RUNNING_BYTES)
        give_memory_back()


def give_memory_back() -> None:
    """Return free memory of the heap to the system."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set_threshold(num_bytes: int) -> None:
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, num_bytes)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * num_bytes)
