"""Collectives of several machines: the ranks of a machine first, then one leader a machine, then the machine again.

Between machines goes one tensor a machine, whatever the number of its ranks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from typing_extensions import Buffer

from shoal.arrays import F32
from shoal.core.collectives import ProcessGroup
from shoal.errors import ConfigError, RemoteProtocolError, WorkerLost


class HybridGroup:
    """A `ProcessGroup` of a group inside this machine and one of the machines' leaders, both of which it owns.

    Sums are of the machines' sums, in the order of the machines: the same bits on every rank, though not those of one
    flat group. A rank whose call failed leaves both groups, so that every other one learns of it at once.
    """

    def __init__(
        self, local: ProcessGroup, leaders: ProcessGroup | None, *, rank: int, machine_of_rank: Sequence[int]
    ) -> None:
        """Does not wait.

        Args:
            local: the ranks of this machine, in their order here.
            leaders: on the first rank of each machine the group of these ranks, in the order of the machines; None on
                the others, and where there is one machine.
            rank: among all machines.
            machine_of_rank: for every rank its machine; a machine's ranks are consecutive.

        Raises:
            ConfigError: a machine's ranks are not consecutive, or the groups do not fit it.
        """
        if not 0 <= rank < len(machine_of_rank):
            raise ConfigError(f"no rank {rank} in a group of {len(machine_of_rank)}")
        self._rank = rank
        self._spans = _machine_spans(machine_of_rank)
        self._machine = next(index for index, (first, last) in enumerate(self._spans) if first <= rank < last)
        self._local = local
        self._leaders = leaders
        first, last = self._spans[self._machine]
        if (local.rank, local.size) != (rank - first, last - first):
            raise ConfigError(f"rank {rank} is not rank {local.rank} of the {local.size} of its machine")
        needed = (self._machine, len(self._spans)) if rank == first and len(self._spans) > 1 else None
        given = None if leaders is None else (leaders.rank, leaders.size)
        if given != needed:
            raise ConfigError(f"rank {rank} needs {needed} as rank and size among the leaders, not {given}")

    @property
    def rank(self) -> int:
        """See `ProcessGroup.rank`."""
        return self._rank

    @property
    def size(self) -> int:
        """See `ProcessGroup.size`."""
        return self._spans[-1][1]

    def all_reduce(self, x: F32, *, timeout_s: float) -> None:
        """See `ProcessGroup.all_reduce`."""
        deadline_s = time.monotonic() + timeout_s
        with self._inside():
            self._local.all_reduce(x, timeout_s=timeout_s)
        if len(self._spans) > 1:
            self._sum_of_leaders(x, deadline_s)
            self._from_leader(x.data, deadline_s)

    def all_gather(self, part: Buffer, out: Sequence[Buffer], *, timeout_s: float) -> None:
        """See `ProcessGroup.all_gather`. Raises ValueError where `out` is not one buffer a rank."""
        if len(out) != self.size:
            raise ValueError(f"{len(out)} buffers for {self.size} ranks")
        deadline_s = time.monotonic() + timeout_s
        starts = np.cumsum([0, *(memoryview(target).nbytes for target in out)]).tolist()
        everything = memoryview(bytearray(starts[-1]))
        """all parts in rank order, so that those of a machine are in one piece"""
        first, last = self._spans[self._machine]
        own = [everything[starts[rank] : starts[rank + 1]] for rank in range(first, last)]
        with self._inside():
            self._local.all_gather(part, own, timeout_s=timeout_s)
        machines = [everything[starts[first] : starts[last]] for first, last in self._spans]
        self._parts_of_leaders(machines, deadline_s)
        if len(machines) > 1:
            self._from_leader(everything, deadline_s)
        for rank, target in enumerate(out):
            _fill(target, everything[starts[rank] : starts[rank + 1]])

    def broadcast(self, data: Buffer, *, root: int, timeout_s: float) -> None:
        """See `ProcessGroup.broadcast`. Raises ValueError where there is no such root."""
        if not 0 <= root < self.size:
            raise ValueError(f"no rank {root} in a group of {self.size}")
        deadline_s = time.monotonic() + timeout_s
        machine = next(index for index, (first, last) in enumerate(self._spans) if first <= root < last)
        if machine == self._machine:
            with self._inside():
                self._local.broadcast(data, root=root - self._spans[machine][0], timeout_s=timeout_s)
        if self._leaders is not None:
            with self._between():
                self._leaders.broadcast(data, root=machine, timeout_s=_left_s(deadline_s))
        if machine != self._machine:
            self._from_leader(data, deadline_s)

    def close(self) -> None:
        """See `ProcessGroup.close`."""
        self._local.close()
        if self._leaders is not None:
            self._leaders.close()

    def _sum_of_leaders(self, x: F32, deadline_s: float) -> None:
        if self._leaders is not None:
            with self._between():
                self._leaders.all_reduce(x, timeout_s=_left_s(deadline_s))

    def _parts_of_leaders(self, machines: Sequence[memoryview], deadline_s: float) -> None:
        if self._leaders is not None:
            with self._between():
                self._leaders.all_gather(machines[self._machine], machines, timeout_s=_left_s(deadline_s))

    def _from_leader(self, data: Buffer, deadline_s: float) -> None:
        with self._inside():
            self._local.broadcast(data, root=0, timeout_s=_left_s(deadline_s))

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with self._left_on_failure(f"among the ranks of machine {self._machine}"):
            yield

    @contextmanager
    def _between(self) -> Iterator[None]:
        with self._left_on_failure("among the machines"):
            yield

    @contextmanager
    def _left_on_failure(self, where: str) -> Iterator[None]:
        """Whoever waits for this rank in the other group shall not wait for its deadline."""
        try:
            yield
        except (WorkerLost, RemoteProtocolError) as error:
            self.close()
            raise type(error)(f"{where}: {error}") from error
        except BaseException:
            self.close()
            raise


def _machine_spans(machine_of_rank: Sequence[int]) -> list[tuple[int, int]]:
    """[first, last) rank of each machine, in their order. Raises ConfigError where one has ranks in two places."""
    spans: list[tuple[int, int]] = []
    for rank, machine in enumerate(machine_of_rank):
        if rank and machine == machine_of_rank[rank - 1]:
            spans[-1] = (spans[-1][0], rank + 1)
        else:
            spans.append((rank, rank + 1))
    if len(spans) != len(set(machine_of_rank)):
        raise ConfigError(f"ranks on machines {list(machine_of_rank)}: those of one machine must be consecutive")
    return spans


def _fill(target: Buffer, data: memoryview) -> None:
    if data.nbytes:
        memoryview(target).cast("B")[:] = data


def _left_s(deadline_s: float) -> float:
    return max(0.0, deadline_s - time.monotonic())
