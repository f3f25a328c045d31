"""Measuring processes: one per slot, started together, with the same links as workers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from shoal.comm.groups.shm_group import create_group_memory
from shoal.comm.links.ring_link import create_ring
from shoal.comm.links.socket_link import SocketLink
from shoal.errors import WorkerLost
from shoal.executor.process.child_process import ChildProcess, start_module
from shoal.executor.process.cpu_quota import held
from shoal.executor.process.worker import Worker, close_all
from shoal.measure.slots import Slot
from shoal.protocol.profile_messages import (
    PAIR,
    PROFILE_PROTOCOL_VERSION,
    Answer,
    Done,
    Echo,
    Pause,
    Request,
    StartProfile,
    Times,
    decode_answer,
    encode_profile,
)
from shoal.protocol.worker_messages import Shutdown, StageFailed

_SEND_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 300.0
"""Time limit for loading a part of a large model from a slow disk, or the slowest step under a small quota."""
_RING_BYTES = 16 << 20


class ProfileProcess(Worker[Answer]):
    """A child that runs `shoal.worker.measuring.profile_main`."""

    def __init__(self, name: str, fds: Sequence[tuple[str, int]], python: str | None = None) -> None:
        """Start the process.

        Args:
            name: the name in messages.
            fds: command-line options with the descriptors that they pass; the caller still closes its own.
            python: path of the Python that runs it; None: this one.

        Raises:
            ConfigError: there is no such Python.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            given = [("--control", theirs.fileno()), *fds]
            arguments = [word for option, fd in given for word in (option, str(fd))]
            module, inherited = "shoal.worker.measuring.profile_main", [fd for _, fd in given]
            child = ChildProcess(name, start_module(module, arguments, inherited, python))
        self._link = SocketLink(ours)
        super().__init__(child, self._link)

    def send(self, request: Request) -> None:
        """Send a request. Raises WorkerLost, or the error with which the process ended."""
        self._attempt(lambda: self._link.send([encode_profile(request)], timeout_s=_SEND_TIMEOUT_S))

    def answer(self) -> Done | Times | Echo:
        """Receive the answer to the oldest request. Raises WorkerLost if none comes, or the error of the
        measurement."""
        received = self.receive(_ANSWER_TIMEOUT_S)
        if received is None or isinstance(received, StageFailed):
            raise WorkerLost(f"{self.name} did not answer within {_ANSWER_TIMEOUT_S:.0f} s")
        return received

    def _next(self, timeout_s: float) -> Answer | None:
        frame = self._link.receive(timeout_s=timeout_s)
        return None if frame is None else decode_answer(frame)

    def _failure_in(self, received: Answer) -> StageFailed | None:
        return received if isinstance(received, StageFailed) else None

    def _say_shutdown(self) -> None:
        self._link.send([encode_profile(Shutdown())], timeout_s=0.0)


class ProfileTeam:
    """One measuring process per slot. Must be closed, which ends all of them."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Start all processes and wait until they run, are pinned and have their quotas.

        Raises:
            ConfigError: a quota cannot be set here.
            WorkerLost: a process died.
        """
        self.slots = tuple(slots)
        self._processes: list[ProfileProcess] = []
        self._held = ExitStack()
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._start()
            on_failure.pop_all()

    def __enter__(self) -> ProfileTeam:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, slot by slot."""
        return tuple(process.pid for process in self._processes)

    def ask(self, rank: int, request: Request) -> Done | Times | Echo:
        """Send a request to one process and return its answer. Raises: as `ProfileProcess.answer`."""
        self._processes[rank].send(request)
        return self._processes[rank].answer()

    def ask_all(self, request: Request) -> list[Done | Times | Echo]:
        """Send the same request to all at once and return their answers."""
        return self.ask_each(lambda rank: request)

    def ask_each(self, request_of: Callable[[int], Request]) -> list[Done | Times | Echo]:
        """Send a request to each at once, made from its rank, and return their answers."""
        return _ask_each(self._processes, request_of)

    def ask_pair(self, request_of: Callable[[int], Request]) -> tuple[Done | Times | Echo, Done | Times | Echo]:
        """As `ask_each`, for the first two, which have links."""
        first, second = _ask_each(self._processes[:PAIR], request_of)
        return first, second

    def pause(self) -> None:
        """Stop steps that keep going after they were timed."""
        for process in self._processes:
            process.send(Pause())

    def close(self) -> None:
        """End every process. Idempotent."""
        self._held.close()
        close_all(self._processes)

    def _start(self) -> None:
        with ExitStack() as fds:
            links = _connect(len(self.slots), fds)
            for rank, slot in enumerate(self.slots):
                self._processes.append(ProfileProcess(f"profile {rank} ({slot})", links[rank], slot.python))
        self.ask_each(self._start_message)
        for slot, process in zip(self.slots, self._processes, strict=True):
            self._held.enter_context(held(process.pid, slot.cpu_quota, num_cores=slot.threads))

    def _start_message(self, rank: int) -> StartProfile:
        slot = self.slots[rank]
        return StartProfile(
            version=PROFILE_PROTOCOL_VERSION,
            threads=slot.threads,
            cores=slot.cores,
            rank=rank,
        )


def seconds_of(answer: Done | Times | Echo) -> tuple[float, ...]:
    """The times in an answer. Raises WorkerLost if it is of another type."""
    if not isinstance(answer, Times):
        raise WorkerLost(f"a measuring process answered {type(answer).__name__}, not Times")
    return answer.seconds


def _connect(size: int, fds: ExitStack) -> list[list[tuple[str, int]]]:
    """The options of the first two processes: a ring and a TCP connection between them, and the memory of a group.
    Other pairs would give the same figures."""
    links: list[list[tuple[str, int]]] = [[] for _ in range(size)]
    if size > 1:
        ring, group = _kept(create_ring(_RING_BYTES), fds), _kept(create_group_memory(PAIR), fds)
        sender, receiver = _tcp_pair(fds)
        links[0] = [("--ring-out", ring), ("--tcp-out", sender), ("--group", group)]
        links[1] = [("--ring-in", ring), ("--tcp-in", receiver), ("--group", group)]
    return links


def _tcp_pair(fds: ExitStack) -> tuple[int, int]:
    """Both ends of a connection over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = fds.enter_context(socket.create_connection(listener.getsockname(), timeout=_SEND_TIMEOUT_S))
        other = fds.enter_context(listener.accept()[0])
    return one.fileno(), other.fileno()


def _kept(fd: int, fds: ExitStack) -> int:
    """The descriptor, which is then closed with `fds`."""
    fds.callback(os.close, fd)
    return fd


def _ask_each(processes: Sequence[ProfileProcess], request_of: Callable[[int], Request]) -> list[Done | Times | Echo]:
    for rank, process in enumerate(processes):
        process.send(request_of(rank))
    return [process.answer() for process in processes]
