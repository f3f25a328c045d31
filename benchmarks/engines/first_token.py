"""Seconds from starting a command to the first thing it says."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from memory import memory_of_children
from processes import Failed

from engines.reading import Reading


def time_to_first_output(command: Sequence[str]) -> Reading:
    """Run a command that writes an answer to stdout and nothing else. Raises Failed where it fails."""
    started_s = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed_s = time.perf_counter() - started_s
        memory = memory_of_children()
        process.stdout.read()
    if process.returncode or not first:
        raise Failed(f"{' '.join(command)} ended with status {process.returncode} and said {first!r}")
    return Reading(value=elapsed_s, memory=memory)
