"""`python -m shoal.worker`: what the head starts; not for use by hand."""

from __future__ import annotations

import argparse
import socket
import sys

from shoal.comm.ring_link import RingReceiver, RingSender
from shoal.comm.socket_link import SocketLink
from shoal.errors import ShoalError
from shoal.worker.parent import die_with_parent
from shoal.worker.runtime import WorkerRuntime


def main() -> int:
    """Exit status 0 after Shutdown, 1 after an error that the head was told of."""
    parser = argparse.ArgumentParser(prog="shoal.worker", description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="file descriptor of the socket to the head")
    parser.add_argument("--upstream", type=int, help="file descriptor of the ring from the previous stage")
    parser.add_argument(
        "--downstream", type=int, action="append", default=[], help="file descriptor of a ring to the next stage"
    )
    parser.add_argument("--group", type=int, help="file descriptor of the memory that the stage's shards share")
    arguments = parser.parse_args()
    die_with_parent()
    control = SocketLink(socket.socket(fileno=arguments.control))
    upstream = None if arguments.upstream is None else RingReceiver(arguments.upstream)
    downstream = [RingSender(fd) for fd in arguments.downstream]
    try:
        WorkerRuntime(control, upstream, downstream, arguments.group).run()
    except ShoalError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
