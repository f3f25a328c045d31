"""`python -m shoal.worker.process.fork_server`: forks a worker whenever the head asks for one; not for use by hand.

Starting Python and importing modules takes most of a small worker's start. Here this is done once: a worker is a fork,
which shares the memory of all modules with this process and with other workers.

This process ends with the head, or after it has had no worker for a while. Its workers end with it.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from shoal.protocol.forking import MAX_REQUEST_BYTES, NUM_WORKER_FDS, NUMBER, unpack_request
from shoal.worker.process.local import work
from shoal.worker.process.parent import die_with_parent
from shoal.worker.process.title import set_title

_IDLE_S = 10.0
"""A head that closes one model and loads another continues to use this server."""


class _ForkServer:
    """The forked workers, each with its descriptor and the socket that is told about its end."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._workers = selectors.PollSelector()  # unlike epoll, a fork can close it without changing the server's
        self._workers.register(requests, selectors.EVENT_READ)

    def serve(self) -> Sequence[int]:
        """Fork workers until there is nothing more to do.

        Returns in every worker, with its descriptors, and in the server at its end, with none.
        """
        while events := self._workers.select(None if self._has_workers else _IDLE_S):
            for key, _ in events:
                if key.fileobj is not self._requests:
                    self._tell_end(key)
                    continue
                request, fds, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, NUM_WORKER_FDS)
                if not request:  # the head is gone
                    return ()
                modules, name = unpack_request(request)
                _import(modules)
                if fds and (given := self._fork(name, *fds)):
                    return given
        return ()

    @property
    def _has_workers(self) -> bool:
        return len(self._workers.get_map()) > 1

    def _fork(self, name: str, told: int, control: int, handover: int) -> Sequence[int]:
        """Fork a worker. Returns its descriptors in the worker, and nothing in the server."""
        head = socket.socket(fileno=told)
        if _has_hung_up(head):  # another worker was started before, which reads from the same sockets
            _close(head.detach(), control, handover)
            return ()
        pid = os.fork()
        if pid == 0:
            os.setsid()  # so that signals to the terminal's foreground group reach only the head
            set_title(name)
            head.close()
            self._let_go()
            return control, handover
        _close(control, handover)
        process = os.pidfd_open(pid)
        self._workers.register(process, selectors.EVENT_READ, (pid, head))
        try:
            socket.send_fds(head, [NUMBER.pack(pid)], [process])
        except OSError:  # it has hung up in the meantime
            os.kill(pid, signal.SIGKILL)
        return ()

    def _tell_end(self, ended: selectors.SelectorKey) -> None:
        pid, head = ended.data
        _, status = os.waitpid(pid, 0)
        self._workers.unregister(ended.fd)
        os.close(ended.fd)
        with head, suppress(OSError):
            head.send(NUMBER.pack(os.waitstatus_to_exitcode(status)))

    def _let_go(self) -> None:
        """In a worker: close what belongs to the server."""
        for key in list(self._workers.get_map().values()):
            if key.fileobj is not self._requests:
                os.close(key.fd)
                key.data[1].close()
        self._workers.close()
        self._requests.close()


def _has_hung_up(link: socket.socket) -> bool:
    poll = select.poll()
    poll.register(link, 0)  # poll always reports that the other end has hung up
    return bool(poll.poll(0))


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _import(names: Sequence[str]) -> None:
    """Import modules. What cannot be imported is left to the worker, which reports it to the head."""
    for name in names:
        if name not in sys.modules:
            with suppress(ImportError):
                __import__(name)
    gc.freeze()  # a worker's garbage collector would write to every object, so that no page stayed shared


def main() -> int:
    """Exit status of the worker, or of the server: 0."""
    parser = argparse.ArgumentParser(prog="shoal.worker.process.fork_server", description=__doc__)
    parser.add_argument("--requests", type=int, required=True, help="file descriptor of the socket to the head")
    arguments = parser.parse_args()
    os.close(os.pidfd_open(os.getpid()))  # without pidfds the server ends before it has taken a request
    server = os.getpid()
    given = _ForkServer(socket.socket(fileno=arguments.requests)).serve()
    if not given:
        return 0
    die_with_parent()
    return work(*given) if os.getppid() == server else 1  # the server may have ended just before


if __name__ == "__main__":
    sys.exit(main())
