"""Memory of everything that this process has started: PSS, which counts a page shared by n processes as an nth."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_MIN_REST_S = 0.2
_REST_FACTOR = 50
"""How much longer a watch rests than it looks: a look walks page tables, and may cost 2 % of a core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a number of processes."""

    pss_bytes: int = 0
    num_processes: int = 0


class Peak:
    """The largest memory seen so far."""

    def __init__(self) -> None:
        self.memory = Memory()

    def look(self) -> None:
        """Look once more."""
        self.memory = max(self.memory, memory_of_children(), key=lambda memory: memory.pss_bytes)


def memory_of_children() -> Memory:
    """All processes under this one, now."""
    sizes = [_pss_bytes(child.pid) for child in psutil.Process().children(recursive=True)]
    return Memory(pss_bytes=sum(sizes), num_processes=sum(size > 0 for size in sizes))


@contextmanager
def watched(*, is_thorough: bool = False) -> Iterator[Peak]:
    """The peak while the block runs. Thorough: look half of the time, where nothing is timed."""
    peak, ended = Peak(), threading.Event()

    def watch() -> None:
        rest_s = 0.0
        while not ended.wait(rest_s):
            started_s = time.perf_counter()
            peak.look()
            look_s = time.perf_counter() - started_s
            rest_s = look_s if is_thorough else max(_MIN_REST_S, _REST_FACTOR * look_s)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _pss_bytes(pid: int) -> int:
    """0: the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
