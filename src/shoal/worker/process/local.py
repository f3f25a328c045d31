"""A worker on the head's own machine, with its sockets to the head."""

from __future__ import annotations

import socket

from shoal.comm.links.socket_link import SocketLink
from shoal.errors import ShoalError
from shoal.worker.life import WorkerLife
from shoal.worker.links import LocalConnector
from shoal.worker.process.parent import die_with_parent


def work(control: int, handover: int) -> int:
    """Run a worker from beginning to end. The arguments are descriptors of sockets to the head. Returns the exit
    status."""
    die_with_parent()
    connector = LocalConnector(socket.socket(fileno=handover))
    try:
        WorkerLife(SocketLink(socket.socket(fileno=control)), connector).run()
    except ShoalError:
        return 1
    return 0
