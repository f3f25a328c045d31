"""Small packed matrices to be kept, and what a kept file of them would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from shoal.arrays import U8
from shoal.model.packed.kept_weights import KeptWeights
from shoal.model.packed.pack import Arrangement, Placed
from shoal.protocol.worker_messages import FileState

NUM_BYTES = 3 * 64 * 1000
ARRANGEMENT = Arrangement(
    matrices=(
        Placed(name="q", form=(2, 1, 0, 8, 16, 32, 32, 0), start_bytes=0, num_bytes=64),
        Placed(name="k", form=(2, 1, 0, 8, 16, 64, 32, 0), start_bytes=64, num_bytes=NUM_BYTES - 64),
    ),
    num_bytes=NUM_BYTES,
)
CONTENT = np.random.default_rng(1).integers(0, 256, NUM_BYTES, dtype=np.uint8)


def states(mtime_ns: int = 1) -> tuple[FileState, ...]:
    return (FileState(name="model.gguf", num_bytes=7, mtime_ns=mtime_ns, inode=3, header_sha256="ab"),)


def kept_in(root: Path, mtime_ns: int = 1, max_bytes: int | None = 1 << 30) -> KeptWeights:
    return KeptWeights(root, lambda: states(mtime_ns), "auto", max_bytes=max_bytes)


def fill(memory: U8) -> None:
    memory[:] = CONTENT


def must_not_pack(memory: U8) -> None:
    raise AssertionError("it was packed again")


class Counted:
    """Packs, and counts how often."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.count = 0
        self._then = then

    def __call__(self, memory: U8) -> None:
        self.count += 1
        fill(memory)
        self._then()
