"""One worker of an ONNX graph as a child process: its links, and what goes over them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from shoal.comm.links.arena import ReceivingArena, SendingArena, create_arena_memory
from shoal.comm.links.socket_link import SocketLink
from shoal.comm.links.tensor_link import Received, TensorLink
from shoal.executor.process.child_process import ChildProcess, Worker
from shoal.protocol.graph_messages import GraphMessage
from shoal.protocol.messages import Shutdown, StageFailed
from shoal.protocol.tensor_codec import Array

_SEND_TIMEOUT_S = 10.0

LinkFds = tuple[int, int, int]
"""Socket, memory to write, memory to read; -1 for a direction without tensors."""


@dataclass(slots=True, kw_only=True)
class WorkerLinks:
    """A worker's ends of what it shares with other workers. Mutable while they are laid."""

    sources: dict[int, LinkFds] = field(default_factory=dict[int, LinkFds])
    """one shard of each stage that tensors come from, by stage"""
    consumers: list[tuple[int, LinkFds]] = field(default_factory=list[tuple[int, LinkFds]])
    """shards that tensors go to, each with its stage"""
    group: int | None = None
    """memory of the group of the stage's shards"""


class GraphWorkerProcess(Worker[Received]):
    """A child that runs `shoal.worker.graph_main`."""

    def __init__(self, name: str, links: WorkerLinks) -> None:
        """`links`: their descriptors stay the caller's to close."""
        with ExitStack() as theirs, ExitStack() as on_failure:
            ours, their_socket = socket.socketpair()
            on_failure.push(ours)
            theirs.callback(their_socket.close)
            to_worker = create_arena_memory()
            theirs.callback(os.close, to_worker)
            from_worker = create_arena_memory()
            theirs.callback(os.close, from_worker)
            self._link = TensorLink(
                SocketLink(ours), outgoing=SendingArena(to_worker), incoming=ReceivingArena(from_worker)
            )
            on_failure.pop_all()
            on_failure.callback(self._link.close)
            control = (their_socket.fileno(), from_worker, to_worker)
            arguments = ["--control", _spell(control)]
            peers = [("--source", *one) for one in links.sources.items()]
            peers += [("--consumer", *one) for one in links.consumers]
            for option, stage, fds in peers:
                arguments += [option, f"{stage}={_spell(fds)}"]
            handed = [fd for fds in (control, *(fds for _, _, fds in peers)) for fd in fds if fd >= 0]
            if links.group is not None:
                arguments += ["--group", str(links.group)]
                handed.append(links.group)
            child = ChildProcess(name, "shoal.worker.graph_main", arguments, handed)
            on_failure.pop_all()
        super().__init__(child, self._link)

    def send(self, message: GraphMessage, tensors: Mapping[str, Array] | None = None) -> None:
        """One message with its tensors. Raises WorkerLost, CapacityError."""
        self._attempt(lambda: self._link.send(message, tensors, timeout_s=_SEND_TIMEOUT_S))

    def release(self, received: Received) -> None:
        """Its tensors are no longer read."""
        self._link.release(received)

    def _next(self, timeout_s: float) -> Received | None:
        return self._link.receive(timeout_s=timeout_s)

    def _failure_in(self, received: Received) -> StageFailed | None:
        return received.message if isinstance(received.message, StageFailed) else None

    def _say_shutdown(self) -> None:
        self._link.send(Shutdown(), timeout_s=0.0)


def _spell(fds: LinkFds) -> str:
    return ":".join(map(str, fds))
