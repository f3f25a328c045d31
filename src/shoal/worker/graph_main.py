"""`python -m shoal.worker.graph_main`: what the head starts for a stage or shard of a graph; not for use by hand."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from shoal.comm.links.arena import ReceivingArena, SendingArena
from shoal.comm.links.socket_link import SocketLink
from shoal.comm.links.tensor_link import TensorLink
from shoal.errors import ShoalError
from shoal.worker.graph_runtime import GraphWorker
from shoal.worker.parent import die_with_parent


def main() -> int:
    """Exit status 0 after Shutdown, 1 after an error that the head was told of."""
    parser = argparse.ArgumentParser(prog="shoal.worker.graph_main", description=__doc__)
    parser.add_argument("--control", required=True, metavar="SOCKET:OUT:IN", help="file descriptors; -1: no memory")
    parser.add_argument("--source", action="append", default=[], metavar="STAGE=SOCKET:OUT:IN")
    parser.add_argument("--consumer", action="append", default=[], metavar="STAGE=SOCKET:OUT:IN")
    parser.add_argument("--group", type=int, help="file descriptor of the memory that the stage's shards share")
    arguments = parser.parse_args()
    die_with_parent()
    control = _open_link(arguments.control)
    sources = dict(map(_open_peer, arguments.source))
    consumers = list(map(_open_peer, arguments.consumer))
    try:
        GraphWorker(control, sources, consumers, arguments.group).run()
    except ShoalError:
        return 1
    return 0


def _open_peer(text: str) -> tuple[int, TensorLink]:
    stage, _, fds = text.partition("=")
    return int(stage), _open_link(fds)


def _open_link(fds: str) -> TensorLink:
    sock, outgoing, incoming = map(int, fds.split(":"))
    link = TensorLink(
        SocketLink(socket.socket(fileno=sock)),
        outgoing=None if outgoing < 0 else SendingArena(outgoing),
        incoming=None if incoming < 0 else ReceivingArena(incoming),
    )
    for fd in (outgoing, incoming):
        if fd >= 0:
            os.close(fd)
    return link


if __name__ == "__main__":
    sys.exit(main())
