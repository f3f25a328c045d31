"""Workers as child processes on this machine, linked by shared memory."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

from shoal.comm.groups.shm_group import close_group, create_group_memory
from shoal.comm.links.arena import ReceivingArena, SendingArena, create_arena_memory
from shoal.comm.links.ring_link import close_ring, create_ring
from shoal.comm.links.tensor_port import SharedPort
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError
from shoal.executor.launcher import LoadMessage, Place, edges
from shoal.executor.process.fork_server import GRAPH_WORKER, LANGUAGE_WORKER
from shoal.executor.process.message_worker import MessageWorker
from shoal.executor.process.worker_process import WorkerProcess
from shoal.model.decoder.process_bytes import ring_bytes
from shoal.protocol.codec import encode
from shoal.protocol.graph_messages import LoadGraph
from shoal.protocol.worker_messages import Generation, Neighbor, Wire

_Seat = tuple[int, int]
"""(stage, rank)."""


class LocalLauncher:
    """Starts workers on this machine. Implements `executor.launcher.WorkerLauncher`."""

    def __init__(self, *, step_rows: int = 0, hidden_size: int = 0) -> None:
        """`step_rows`, `hidden_size`: rows and fp32 values of a step's hidden states; 0 for graphs. A step may have
        more rows: then its sender waits until the receiver has taken some."""
        self._ring_bytes = ring_bytes(step_rows, hidden_size)

    def start(self, place: Place) -> WorkerProcess:
        """See `WorkerLauncher.start`."""
        if place.machine is not None:
            raise ConfigError(
                f"machine {place.machine} is only described, so a plan that needs it cannot be run from here"
            )
        worker = WorkerProcess(place.label, _modules(place.load), place.python)
        with ExitStack() as on_failure:
            on_failure.callback(worker.close, deadline_s=0.0)
            if place.cpu_quota is not None:
                worker.hold(place.cpu_quota, num_cores=max(1, len(place.load.cores)))
            worker.send(encode(place.load))
            on_failure.pop_all()
        return worker

    def wire(
        self, places: Sequence[Sequence[Place]], workers: Sequence[Sequence[MessageWorker]], generation: Generation
    ) -> LocalWiring:
        """See `WorkerLauncher.wire`. The workers must be its own."""
        wiring = LocalWiring()
        with ExitStack() as on_failure, ExitStack() as handed_over:
            on_failure.callback(wiring.cut)
            wires = _Wires(wiring, self._ring_bytes, handed_over)
            for edge in edges(places):
                wires.connect(edge.source, edge.consumer, has_tensors=_has_tensors(places[edge.source[0]][0]))
            for stage, shards in enumerate(places):
                if len(shards) > 1:
                    wires.add_group(stage, len(shards))
            for stage, shards in enumerate(workers):
                for rank, worker in enumerate(shards):
                    seat = stage, rank
                    port_fds = wires.add_port() if _has_tensors(places[stage][rank]) else []
                    wire, fds = wires.of(seat, generation)
                    cast(WorkerProcess, worker).wire(wire, [*port_fds, *fds])
            on_failure.pop_all()
        return wiring

    def elsewhere(self, machine: str) -> WorkerPlacement | None:
        """See `WorkerLauncher.elsewhere`. Returns None, since there is only this machine."""
        return None


class _Wires:
    """Collects the descriptors that are passed to workers while links are laid."""

    def __init__(self, wiring: LocalWiring, ring_bytes: int, handed_over: ExitStack) -> None:
        """`handed_over`: closes descriptors that only workers need, once they have them."""
        self._wiring = wiring
        self._ring_bytes = ring_bytes
        self._handed_over = handed_over
        self._sources: defaultdict[_Seat, list[tuple[int, list[int]]]] = defaultdict(list)
        """For each worker: (stage at the other end, descriptors of this end)."""
        self._consumers: defaultdict[_Seat, list[tuple[int, list[int]]]] = defaultdict(list)
        self._groups: dict[int, tuple[int, int]] = {}
        """For each stage: (shared memory, number of ranks)."""

    def connect(self, source: _Seat, consumer: _Seat, *, has_tensors: bool) -> None:
        """Lay a link from one worker to another."""
        near, far = self._tensor_link() if has_tensors else self._ring()
        self._consumers[source].append((consumer[0], near))
        self._sources[consumer].append((source[0], far))

    def add_group(self, stage: int, size: int) -> None:
        """Add the group of a stage's shards."""
        self._groups[stage] = self._wiring.add_group(size), size

    def add_port(self) -> list[int]:
        """Add the port between the head and the next worker. Returns the arena that the worker writes, and the one that
        it reads."""
        from_worker, to_worker = self._arena(), self._arena()
        self._wiring.ports.append(SharedPort(outgoing=SendingArena(to_worker), incoming=ReceivingArena(from_worker)))
        return [from_worker, to_worker]

    def of(self, seat: _Seat, generation: Generation) -> tuple[Wire, list[int]]:
        """The `Wire` message of a worker, and the descriptors that are passed with it."""
        sources, consumers, group = self._sources[seat], self._consumers[seat], self._groups.get(seat[0])
        wire = Wire(
            generation=generation,
            sources=tuple(Neighbor(stage=stage) for stage, _ in sources),
            consumers=tuple(Neighbor(stage=stage) for stage, _ in consumers),
            group=() if group is None else (Neighbor(stage=seat[0]),) * group[1],
        )
        fds = [fd for _, own in (*sources, *consumers) for fd in own]
        return wire, fds if group is None else [*fds, group[0]]

    def _ring(self) -> tuple[list[int], list[int]]:
        ring = self._wiring.add_ring(self._ring_bytes)
        return [ring], [ring]

    def _tensor_link(self) -> tuple[list[int], list[int]]:
        near, far = socket.socketpair()
        self._handed_over.callback(far.close)
        self._wiring.add_socket(near)
        memory = self._arena()
        return [near.fileno(), memory], [far.fileno(), memory]

    def _arena(self) -> int:
        memory = create_arena_memory()
        self._handed_over.callback(os.close, memory)
        return memory


class LocalWiring:
    """Links of local workers. Implements `executor.launcher.Wiring`. The head keeps ends of all links to cut them."""

    def __init__(self) -> None:
        self.ports: list[SharedPort] = []
        self._rings: list[int] = []
        self._sockets: list[socket.socket] = []
        self._groups: list[tuple[int, int]] = []
        """(shared memory, number of ranks) of each group."""

    def port(self, index: int) -> SharedPort:
        """See `Wiring.port`."""
        return self.ports[index]

    def add_ring(self, capacity_bytes: int) -> int:
        """Add a ring. Returns its descriptor for both ends, which the wiring closes."""
        self._rings.append(create_ring(capacity_bytes))
        return self._rings[-1]

    def add_socket(self, end: socket.socket) -> None:
        """Take over one end of a pair of sockets."""
        self._sockets.append(end)

    def add_group(self, size: int) -> int:
        """Add a group. Returns its descriptor, which the wiring closes."""
        self._groups.append((create_group_memory(size), size))
        return self._groups[-1][0]

    def cut(self) -> None:
        """See `Wiring.cut`."""
        for fd in self._rings:
            close_ring(fd)
            os.close(fd)
        for end in self._sockets:
            with suppress(OSError):  # the worker has ended
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for fd, size in self._groups:
            close_group(fd, size)
            os.close(fd)
        for port in self.ports:
            port.close()
        self._rings.clear()
        self._sockets.clear()
        self._groups.clear()


def _has_tensors(place: Place) -> bool:
    return isinstance(place.load, LoadGraph)


def _modules(load: LoadMessage) -> Sequence[str]:
    """The modules that a worker imports to load this, see `WorkerProcess`. What the server has imported, all of its
    workers share."""
    if isinstance(load, LoadGraph):
        return GRAPH_WORKER
    match Path(load.model_path).suffix:
        case ".gguf":
            return *LANGUAGE_WORKER, "shoal.model.formats.gguf.file"
        case ".onnx":
            return LANGUAGE_WORKER
        case _:
            return *LANGUAGE_WORKER, "shoal.model.formats.huggingface.safetensors_dir"
