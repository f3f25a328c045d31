"""`shoal serve` as a process of its own, with a tiny model."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from shoal.executor.process.living_workers import worker_processes
from tests.integration.running import EXIT_S


@dataclass(frozen=True, kw_only=True)
class Served:
    url: str
    process: subprocess.Popen[str]

    def workers(self) -> list[int]:
        """Process ids, the oldest first."""
        return [worker.pid for worker in worker_processes(psutil.Process(self.process.pid))]

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=EXIT_S).text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"shoal:{name}{{"))


@contextmanager
def served(model: Path, *options: str, num_descriptors: int | None = None) -> Generator[Served, None, None]:
    """While the block runs; workers that are stopped count as hung only after a minute.

    `num_descriptors`: that the server may open; None: as many as this process.
    """
    limited = ("sh", "-c", f'ulimit -n {num_descriptors} && exec "$@"', "sh") if num_descriptors else ()
    command = ("serve", str(model), "--port", "0", "--name", "tiny", "--threads", "1")
    language = ("--precision", "fp32", "--kv-memory", "16M", "--worker-timeout", "60")
    limits = () if model.suffix == ".onnx" else language
    with subprocess.Popen(
        [*limited, sys.executable, "-m", "shoal.cli.main", *command, *limits, *options],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if line.startswith("serving "))
            yield Served(url=line.split()[-1].removesuffix("/v2"), process=process)
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Asks the server again and again; fails where it never comes to that."""
    deadline_s = time.monotonic() + EXIT_S
    while not condition():
        assert time.monotonic() < deadline_s
