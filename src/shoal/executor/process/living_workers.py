"""The workers of a head on this machine, from the operating system's process list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psutil

_FORK_SERVER = "shoal.worker.process.fork_server"
_WORKER_MODULES = "shoal.worker"


def worker_processes(head: psutil.Process) -> list[psutil.Process]:
    """The workers that have not ended, stopped ones included, in the order of their process ids.

    A process that the head has forked but that does not run the worker's program yet is left out: stopping it would
    stop the head, which waits for it.
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
