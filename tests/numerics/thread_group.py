"""A group of ranks that are threads of this process: the plainest implementation of `ProcessGroup`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer


class ThreadGroup:
    """One rank's view. Raises threading.BrokenBarrierError instead of WorkerLost."""

    def __init__(self, rank: int, shared: list[Buffer], barrier: threading.Barrier) -> None:
        self.rank = rank
        self._shared = shared
        self._barrier = barrier
        self.num_sums = 0

    @property
    def size(self) -> int:
        return len(self._shared)

    def all_reduce(self, x: npt.NDArray[np.float32], *, timeout_s: float) -> None:
        self.num_sums += 1
        terms = [np.frombuffer(term, np.float32) for term in self._exchange(x.copy(), timeout_s)]
        assert {term.size for term in terms} == {x.size}
        total = terms[0].copy()
        for term in terms[1:]:
            total += term
        x[:] = total.reshape(x.shape)

    def sum_within(self, timeout_s: float) -> Callable[[npt.NDArray[np.float32]], None]:
        return partial(self.all_reduce, timeout_s=timeout_s)

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        for target, source in zip(out, self._exchange(bytes(part), timeout_s), strict=True):
            memoryview(target).cast("B")[:] = memoryview(source).cast("B")

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        memoryview(data).cast("B")[:] = memoryview(self._exchange(bytes(data), timeout_s)[root]).cast("B")

    def close(self) -> None:
        self._barrier.abort()

    def _exchange(self, own: Buffer, timeout_s: float) -> list[Buffer]:
        self._shared[self.rank] = own
        self._barrier.wait(timeout_s)
        everything = list(self._shared)
        self._barrier.wait(timeout_s)
        return everything


def thread_groups(size: int) -> list[ThreadGroup]:
    """All ranks of a group, each for a thread of its own."""
    shared: list[Buffer] = [b""] * size
    barrier = threading.Barrier(size)
    return [ThreadGroup(rank, shared, barrier) for rank in range(size)]
