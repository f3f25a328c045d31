"""The workers that a head has on this machine, as the operating system lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psutil

_FORK_SERVER = "shoal.worker.process.fork_server"
_WORKER_MODULES = "shoal.worker"


def worker_processes(head: psutil.Process) -> list[psutil.Process]:
    """Workers that have not ended, in the order of their process ids; stopped ones are among them.

    A process that the head has forked and that does not run the worker's program yet is still the head's own: stopping
    it would stop the head, which waits for it.
    """
    return sorted(_workers(head), key=lambda one: one.pid)


def _workers(head: psutil.Process) -> Iterator[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        for child in head.children():
            with suppress(psutil.NoSuchProcess):
                command = child.cmdline()  # empty once it has ended
                if _FORK_SERVER in command:
                    yield from (fork for fork in child.children() if fork.cmdline())
                elif any(word.startswith(_WORKER_MODULES) for word in command):
                    yield child
