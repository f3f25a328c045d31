"""Run a range of a format's inputs in a process of its own, and say what is wrong with which."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.files.child import PROCESSOR_S, make_input, write_files

ROOT = Path(__file__).parents[3]
KEPT = Path(__file__).parent / "kept"
"""Inputs that once brought out what should not come out, a folder each: FORMAT-NUMBER."""


class Flaw(NamedTuple):
    """What one input brought out."""

    index: int
    what: str


def find_flaws(name: str, first: int, last: int, root: Path, *, deadline_s: float) -> Iterator[Flaw]:
    """Flaws of the inputs [first, last) of a format. An input that ends the process is one; the next goes on after it.

    Args:
        name: of the format.
        first, last: numbers of inputs, from 1 on.
        root: an empty folder.
        deadline_s: for each process; an input that is under way then is a flaw.
    """
    while first < last:
        command = [sys.executable, "-m", "tests.fuzz.files.child", name, str(first), str(last), str(root)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=deadline_s, check=False)
            output, status, words = done.stdout, done.returncode, done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            output, status, words = error.stdout or b"", None, f"did not end within {deadline_s:g} s"
        yield from (Flaw(entry["index"], entry["flaw"]) for entry in map(json.loads, output.splitlines()))
        if status == 0:
            return
        current = int((root / "current").read_text() or first)
        if status == -signal.SIGPROF:
            words = f"takes more than {PROCESSOR_S:g} s of processor time: {words}"
        yield Flaw(current, f"status {status}: {words[-1500:]}")
        first = current + 1


def keep(name: str, index: int) -> Path:
    """Write an input into the folder of kept ones."""
    KEPT.mkdir(exist_ok=True)
    folder = KEPT / f"{name}-{index}"
    write_files(make_input(name, index), folder)
    return folder
