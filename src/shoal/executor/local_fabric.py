"""Workers as child processes on this machine, wired by rings and groups in shared memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import cast

from shoal.comm.groups.shm_group import close_group, create_group_memory
from shoal.comm.links.ring_link import close_ring, create_ring
from shoal.errors import ConfigError
from shoal.executor.fabric import Place
from shoal.executor.process.message_worker import MessageWorker
from shoal.executor.process.worker_process import WorkerProcess
from shoal.protocol.codec import encode
from shoal.protocol.messages import Generation, Wire

_RING_STEPS = 3
"""Steps' worth of hidden states that a ring holds, so that a sender never waits for a receiver that computes."""
_ON_THIS_MACHINE = ""
"""See `Wire`."""


class LocalFabric:
    """Implements `executor.fabric.Fabric`."""

    def __init__(self, *, max_step_tokens: int, hidden_size: int) -> None:
        """What one step's hidden states take: `max_step_tokens` rows of `hidden_size` fp32 values."""
        self._ring_bytes = _RING_STEPS * max_step_tokens * hidden_size * 4 + (1 << 16)

    def start(self, place: Place) -> WorkerProcess:
        """See `Fabric.start`."""
        if place.machine is not None:
            raise ConfigError(f"machine {place.machine} is not at hand; a plan that needs it cannot be run from here")
        worker = WorkerProcess(place.label)
        with ExitStack() as on_failure:
            on_failure.callback(worker.close, deadline_s=0.0)
            if place.cpu_quota is not None:
                worker.hold(place.cpu_quota, num_cores=max(1, len(place.load.cores)))
            worker.send(encode(place.load))
            on_failure.pop_all()
        return worker

    def wire(self, workers: Sequence[Sequence[MessageWorker]], generation: Generation) -> LocalWiring:
        """See `Fabric.wire`. They must be its own. A shard takes from the shard of its own rank, counted round."""
        wiring = LocalWiring()
        with ExitStack() as on_failure:
            on_failure.callback(wiring.cut)
            upstream: list[int | None] = [None] * len(workers[0])
            for index, shards in enumerate(workers):
                num_next = len(workers[index + 1]) if index + 1 < len(workers) else 0
                downstream = [wiring.add_ring(self._ring_bytes) for _ in range(num_next)]
                group = wiring.add_group(len(shards)) if len(shards) > 1 else None
                for rank, worker in enumerate(shards):
                    own = downstream[rank :: len(shards)]
                    fds = [fd for fd in (upstream[rank], *own, group) if fd is not None]
                    wire = Wire(
                        generation=generation,
                        upstream=None if upstream[rank] is None else _ON_THIS_MACHINE,
                        downstream=(_ON_THIS_MACHINE,) * len(own),
                        group=(_ON_THIS_MACHINE,) * len(shards) if group is not None else (),
                    )
                    cast(WorkerProcess, worker).wire(wire, fds)
                upstream = list(downstream)
            on_failure.pop_all()
        return wiring


class LocalWiring:
    """Implements `executor.fabric.Wiring`. The head holds every link's memory, to cut it where a worker cannot."""

    def __init__(self) -> None:
        self._rings: list[int] = []
        self._groups: list[tuple[int, int]] = []
        """memory and number of ranks"""

    def add_ring(self, capacity_bytes: int) -> int:
        """A new ring's descriptor, to be handed to both ends; it stays the wiring's to close."""
        self._rings.append(create_ring(capacity_bytes))
        return self._rings[-1]

    def add_group(self, size: int) -> int:
        """A new group's descriptor, likewise."""
        self._groups.append((create_group_memory(size), size))
        return self._groups[-1][0]

    def cut(self) -> None:
        """See `Wiring.cut`."""
        for fd in self._rings:
            close_ring(fd)
            os.close(fd)
        for fd, size in self._groups:
            close_group(fd, size)
            os.close(fd)
        self._rings.clear()
        self._groups.clear()
