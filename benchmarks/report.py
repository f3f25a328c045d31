"""Result files: what was run, where, and what came out, as Markdown that a person reads."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine_name() -> str:
    """A short name for this machine's kind: cores and instruction set."""
    return f"{_num_cores()}core-{_instruction_set()}"


def write_result(what: str, lines: Sequence[str], *, command: str) -> Path:
    """Write `results/<what>_<machine>_<date>.md` with the circumstances on top."""
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    path = RESULTS / f"{what}_{machine_name()}_{date}.md"
    versions = ", ".join(f"{name} {version(name)}" for name in ("shoal-inference", "onnxruntime", "numpy"))
    head = [
        f"# {what}, {date}",
        "",
        f"* command: `{command}`",
        f"* commit: {_commit()}",
        f"* machine: {_num_cores()} cores, {_processor()}, {_instruction_set()}; {platform.platform()}",
        f"* versions: Python {platform.python_version()}, {versions}",
        "* The machine is shared: read the ratios, which compare runs of the same minutes, not the absolutes.",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _instruction_set() -> str:
    flags = Path("/proc/cpuinfo").read_text()
    known = ("avx512_vnni", "avx512f", "avx2")
    return next((name for name in known if name in flags), platform.machine())


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(("git", *arguments), capture_output=True, text=True, cwd=RESULTS.parent).stdout.strip()

    dirty = " with local changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return git("rev-parse", "--short", "HEAD") + dirty
