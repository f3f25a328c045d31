"""`python -m shoal.worker`: what the head starts; not for use by hand."""

from __future__ import annotations

import argparse
import socket
import sys

from shoal.comm.links.socket_link import SocketLink
from shoal.errors import ShoalError
from shoal.worker.life import WorkerLife
from shoal.worker.links import LocalConnector
from shoal.worker.parent import die_with_parent


def main() -> int:
    """Exit status 0 after Shutdown, 1 after an error that the head was told of."""
    parser = argparse.ArgumentParser(prog="shoal.worker", description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="file descriptor of the socket to the head")
    parser.add_argument(
        "--handover",
        type=int,
        required=True,
        help="file descriptor of the socket that those of the links come over",
    )
    arguments = parser.parse_args()
    die_with_parent()
    control = SocketLink(socket.socket(fileno=arguments.control))
    connector = LocalConnector(socket.socket(fileno=arguments.handover))
    try:
        WorkerLife(control, connector).run()
    except ShoalError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
