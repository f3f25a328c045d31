"""Memory for packed weights: private to the process, or the pages of a file that all processes share.

Both begin at a page, hence at a multiple of 64 bytes.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress

import numpy as np

from shoal.arrays import U8


def own_memory(num_bytes: int) -> U8:
    """Zeroed memory, whose pages are allocated as they are written, and freed with the last array over them.

    It uses large pages if possible: a first write to every 4 KiB takes longer than packing does.
    """
    if num_bytes == 0:
        return np.zeros(0, np.uint8)
    if not hasattr(mmap, "MAP_PRIVATE"):
        return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def file_memory(fd: int, num_bytes: int) -> U8:
    """A whole file of this many bytes, mapped read-only: one copy in memory for all processes that map it. The
    descriptor may be closed afterwards.

    Raises OSError, or ValueError if the file is shorter.
    """
    if os.fstat(fd).st_size < num_bytes:
        raise ValueError("the file is shorter than what is to be mapped")
    from shoal._native import map_file

    return map_file(fd, num_bytes)
