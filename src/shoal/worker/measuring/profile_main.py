"""`python -m shoal.worker.measuring.profile_main`, which the head starts to measure; not for use by hand."""

from __future__ import annotations

import argparse
import socket
import sys

from shoal.comm.links.link import Link
from shoal.comm.links.ring_link import RingReceiver, RingSender
from shoal.comm.links.socket_link import SocketLink
from shoal.errors import ShoalError
from shoal.worker.measuring.profile_runtime import ProfileRuntime
from shoal.worker.process.parent import die_with_parent


def main() -> int:
    """Exit status: 0 after Shutdown, 1 after an error that was reported to the head."""
    parser = argparse.ArgumentParser(prog="shoal.worker.measuring.profile_main", description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="file descriptor of the socket to the head")
    parser.add_argument("--ring-in", type=int, help="file descriptor of the ring from the previous process")
    parser.add_argument("--ring-out", type=int, help="file descriptor of the ring to the next process")
    parser.add_argument("--tcp-in", type=int, help="file descriptor of a connection from the previous process")
    parser.add_argument("--tcp-out", type=int, help="file descriptor of a connection to the next process")
    parser.add_argument("--group", type=int, help="file descriptor of memory that all processes share")
    arguments = parser.parse_args()
    die_with_parent()
    incoming: dict[str, Link] = {}
    outgoing: dict[str, Link] = {}
    if arguments.ring_in is not None:
        incoming["ring"] = RingReceiver(arguments.ring_in)
    if arguments.ring_out is not None:
        outgoing["ring"] = RingSender(arguments.ring_out)
    if arguments.tcp_in is not None:
        incoming["tcp"] = SocketLink(socket.socket(fileno=arguments.tcp_in))
    if arguments.tcp_out is not None:
        outgoing["tcp"] = SocketLink(socket.socket(fileno=arguments.tcp_out))
    control = SocketLink(socket.socket(fileno=arguments.control))
    try:
        ProfileRuntime(control, incoming, outgoing, arguments.group).run()
    except ShoalError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
