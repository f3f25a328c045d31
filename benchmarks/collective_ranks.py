"""The processes that `collectives.py` measures: one a rank, each holding every contender."""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection

import numpy as np
from processes import free_port

from shoal.arrays import F32
from shoal.comm.groups.shm_group import SharedMemoryGroup, create_group_memory
from shoal.comm.groups.switch import SwitchedGroup, measure_switch
from shoal.comm.groups.tcp_group import TcpGroup

SHARED_MEMORY, TCP, GLOO = "shared memory", "TCP", "gloo"
RAW, RAW_POLLING = "raw TCP round trip", "raw TCP round trip of polling ends"
COPY = "copy by one thread"
SWITCHES = {SHARED_MEMORY: "time of the switch in shared memory", TCP: "time of the switch over TCP"}
"""The switch's bytes are under the contender's name with 0 bytes, the seconds to measure it under this one."""
Key = tuple[str, int, int]
"""(what, ranks, bytes)"""
Samples = dict[Key, list[float]]
"""Seconds, the median of a round's calls, for every round."""

_TIMEOUT_S = 60.0
_RAW_BYTES = 4 << 10
_COPY_BYTES = 16 << 20
_CALLS = ((64 << 10, 400), (1 << 20, 60), (1 << 62, 8))
"""(bytes up to which, calls a round): about a tenth of a second of the slowest contender"""
_WARM_UP = 5
"""One in so many calls is made before timing starts."""
Sum = Callable[[F32], object]


def measure_group(num_ranks: int, rounds: int, sizes_bytes: Sequence[int]) -> Samples:
    """Start the ranks, and return what rank 0 measured."""
    context = multiprocessing.get_context("fork")  # so that sockets and memory need not be sent
    receiving, sending = context.Pipe(duplex=False)
    memory, gloo_port = create_group_memory(num_ranks), free_port()
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_ranks)]

    def run(rank: int) -> None:
        with _groups(rank, memory, listeners) as (shared, tcp):
            sums = {SHARED_MEMORY: _sum_with(shared), TCP: _sum_with(tcp)} | _gloo(rank, num_ranks, gloo_port)
            _pin(rank)
            ranks = _Rank(shared, tcp, sums)
            ranks.measure(rounds, sizes_bytes)
            if rank == 0:
                sending.send(ranks.samples)

    processes = [context.Process(target=run, args=(rank,), daemon=True) for rank in range(num_ranks)]
    for process in processes:
        process.start()
    sending.close()
    try:
        return _result(receiving)
    finally:
        for process in processes:
            process.join(_TIMEOUT_S)
        for listener in listeners:
            listener.close()
        os.close(memory)


def _result(receiving: Connection) -> Samples:
    try:
        return receiving.recv()
    except EOFError:
        raise SystemExit("a rank ended before it had measured") from None


@contextmanager
def _groups(rank: int, memory: int, listeners: Sequence[socket.socket]) -> Iterator[tuple[SharedMemoryGroup, TcpGroup]]:
    size, addresses = len(listeners), [listener.getsockname() for listener in listeners]
    shared = SharedMemoryGroup(memory, rank=rank, size=size, generation=1)
    peers = _connected(addresses, rank, listeners[rank])
    tcp = TcpGroup(peers, rank=rank, size=size, generation=1)
    try:
        yield shared, tcp
    finally:
        shared.close()
        tcp.close()


def _connected(addresses: Sequence[tuple[str, int]], rank: int, listener: socket.socket) -> dict[int, socket.socket]:
    """A connection to every other rank: of two the higher one connects, and says which it is."""
    peers = {other: socket.create_connection(addresses[other], timeout=_TIMEOUT_S) for other in range(rank)}
    for peer in peers.values():
        peer.sendall(bytes([rank]))
    listener.settimeout(_TIMEOUT_S)
    for _ in range(len(addresses) - rank - 1):
        peer, _ = listener.accept()
        peers[peer.recv(1)[0]] = peer
    return peers


def _gloo(rank: int, size: int, port: int) -> dict[str, Sum]:
    """Nothing where torch is not installed."""
    if find_spec("torch") is None:
        return {}
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    return {GLOO: lambda x: distributed.all_reduce(torch.from_numpy(x))}


def _sum_with(group: SwitchedGroup) -> Sum:
    return lambda x: group.all_reduce(x, timeout_s=_TIMEOUT_S)


def _pin(rank: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


class _Rank:
    """One rank's calls; all ranks make the same ones."""

    def __init__(self, shared: SharedMemoryGroup, tcp: TcpGroup, sums: dict[str, Sum]) -> None:
        self.samples: Samples = {}
        self._shared = shared
        self._tcp = tcp
        self._sums = sums

    def measure(self, rounds: int, sizes_bytes: Sequence[int]) -> None:
        """Every contender once a round, in turn."""
        self._measure_switches()
        with self._raw_connection() as raw:
            for _ in range(rounds):
                for num_bytes in sizes_bytes:
                    x = np.zeros(num_bytes // 4, np.float32)
                    for name, sum_ranks in self._sums.items():
                        self._sample(name, num_bytes, lambda x=x, sum_ranks=sum_ranks: sum_ranks(x))
                self._measure_references(raw)

    def _measure_references(self, raw: socket.socket | None) -> None:
        """Ranks without a part in one wait for the others."""
        if raw is not None:
            for name, blocking in ((RAW, True), (RAW_POLLING, False)):
                raw.setblocking(blocking)
                round_trip = partial(_round_trip, raw, bytearray(_RAW_BYTES), self._shared.rank == 0)
                self._sample(name, _RAW_BYTES, round_trip)
        self._meet()
        if self._shared.rank == 0:
            source, target = np.ones((2, _COPY_BYTES // 4), np.float32)
            self._sample(COPY, _COPY_BYTES, lambda: np.copyto(target, source))
        self._meet()

    def _measure_switches(self) -> None:
        groups: dict[str, SwitchedGroup] = {SHARED_MEMORY: self._shared, TCP: self._tcp}
        for name, group in groups.items():
            self._meet()
            started_s = time.perf_counter()
            switch_bytes = measure_switch(group, timeout_s=_TIMEOUT_S)
            self._add(SWITCHES[name], 0, time.perf_counter() - started_s)
            self._add(name, 0, switch_bytes)

    def _sample(self, name: str, num_bytes: int, call: Callable[[], object]) -> None:
        calls = next(calls for up_to, calls in _CALLS if num_bytes <= up_to)
        for _ in range(calls // _WARM_UP):
            call()
        self._add(name, num_bytes, statistics.median(_timed(call) for _ in range(calls)))

    def _add(self, name: str, num_bytes: int, value: float) -> None:
        self.samples.setdefault((name, self._shared.size, num_bytes), []).append(value)

    def _meet(self) -> None:
        """Nobody goes on before all have come; who waits sleeps."""
        self._shared.all_reduce(np.zeros(1, np.float32), timeout_s=_TIMEOUT_S)

    @contextmanager
    def _raw_connection(self) -> Iterator[socket.socket | None]:
        """A plain connection between ranks 0 and 1; None on the others."""
        port, rank = np.zeros(1, np.int64), self._shared.rank
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port[0] = listener.getsockname()[1]
            self._shared.broadcast(port.data, root=0, timeout_s=_TIMEOUT_S)
            sock = socket.create_connection(("127.0.0.1", int(port[0]))) if rank == 1 else None
            sock = listener.accept()[0] if rank == 0 else sock
            if sock is not None:
                stack.enter_context(sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield sock


def _round_trip(sock: socket.socket, buffer: bytearray, is_first: bool) -> None:
    """There and back again, nothing but the bytes."""
    if is_first:
        sock.sendall(buffer)
    left = memoryview(buffer)
    while left:
        with suppress(BlockingIOError):
            left = left[sock.recv_into(left) :]
    if not is_first:
        sock.sendall(buffer)


def _timed(call: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s
