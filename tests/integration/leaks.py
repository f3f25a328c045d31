"""What a test may leave behind: nothing."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from shoal.executor.process import fork_server


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What this process holds of the system's resources."""

    descriptors: frozenset[tuple[int, str]]
    children: frozenset[int]
    threads: frozenset[tuple[int | None, str]]
    """with their names, but for the one of tqdm's that looks after bars: the first bar of a process starts it"""
    shared_memory: frozenset[str]

    @classmethod
    def now(cls) -> _Held:
        return cls(
            descriptors=frozenset(open_descriptors()),
            children=frozenset(child.pid for child in psutil.Process().children(recursive=True))
            - _fork_servers().keys(),
            threads=frozenset(
                (thread.ident, thread.name)
                for thread in threading.enumerate()
                if type(thread).__module__ != "tqdm._monitor"
            ),
            shared_memory=frozenset(os.listdir("/dev/shm")),
        )


def _fork_servers() -> dict[int, int]:
    """Process ids of those that this process has, with its descriptors: they outlive a model by a few seconds."""
    return {server.pid: server._requests.fileno() for _, server in fork_server._servers._servers}


def open_descriptors() -> Iterator[tuple[int, str]]:
    """Descriptors of this process, and what they are of; without those of fork servers."""
    servers = set(_fork_servers().values())
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if int(entry.name) not in servers:
                yield int(entry.name), os.readlink(entry).removesuffix(" (deleted)")
        except FileNotFoundError:
            continue  # the descriptor that listed the directory


def kinds_of_descriptors() -> Counter[str]:
    """How many of each kind (file, pipe, socket, ...) this process has open, once what nothing refers to is gone."""
    gc.collect()  # a cycle, of an earlier test perhaps, or a tensor that was under way may still hold some
    return Counter(of.split(":")[0] for _, of in open_descriptors())


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fails where descriptors, child processes, threads or shared memory are there afterwards that were not before.

    Shared memory of other programs comes and goes; what Shoal makes has no name, and would show its own if it had.
    """
    before = _Held.now()
    yield
    if _leaks(before, _Held.now()):
        gc.collect()  # a cycle may hold a descriptor a little longer; collecting every time would take seconds
    leaks = _leaks(before, _Held.now())
    assert not leaks, leaks


def _leaks(before: _Held, after: _Held) -> list[object]:
    """What is there after and was not before."""
    shared_memory = {name for name in after.shared_memory - before.shared_memory if "shoal" in name}
    return [
        *(after.descriptors - before.descriptors),
        *(after.children - before.children),
        *(after.threads - before.threads),
        *shared_memory,
    ]
