"""Result files: what was run, where, and what came out, as Markdown that a person reads.

They go to `benchmarks/results`, or to the folder that RESULTS names: a trial run leaves those that are kept alone.
"""

from __future__ import annotations

import datetime
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_KEPT = Path(__file__).parent / "results"
RESULTS = Path(os.environ.get("RESULTS") or _KEPT)
signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # what a script has started and written goes with it


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
        f"* machine: {_num_cores()} cores, {_processor()}, {', '.join(instruction_sets())}; {platform.platform()}",
        f"* versions: Python {platform.python_version()}, {versions}",
        "* The machine is shared: read the ratios, which compare runs of the same minutes, not the absolutes.",
        "",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*head, *lines]) + "\n")
    return path


def command_line(script: str, *variables: str) -> str:
    """How a script that environment variables change was called: `ROUNDS=3 python benchmarks/chains.py`.

    Places of this machine are left out.
    """
    given = {name: os.environ[name] for name in variables if name in os.environ}
    words = [f"{name}={'...' if os.path.isabs(value) else value}" for name, value in given.items()]
    return " ".join([*words, f"python benchmarks/{Path(script).name}"])


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def instruction_sets() -> list[str]:
    """Those of this machine's that matter for matrix products, the widest first."""
    known = ("amx_int8", "amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "i8mm", "asimddp")
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    flags = next((words.split() for key, _, words in lines if key.strip().lower() in ("flags", "features")), [])
    return [name for name in known if name in flags]


def _instruction_set() -> str:
    """The one that a result file is named by."""
    naming = ("amx_int8", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "i8mm", "asimddp")
    return next((name for name in naming if name in instruction_sets()), platform.machine())


def _commit() -> str:
    """Changes of results alone, such as those of the script that ran before, are none of what is measured."""

    def git(*arguments: str) -> str:
        return subprocess.run(("git", *arguments), capture_output=True, text=True, cwd=_KEPT.parent).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", f":!{_KEPT}")
    return git("rev-parse", "--short", "HEAD") + (" with local changes" if changed else "")
