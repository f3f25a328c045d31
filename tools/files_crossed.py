"""How many files the way from a command to started workers crosses: `python -m tools.files_crossed MODEL [SPLIT]`.

A file counts where one of its functions is called in the head process between `load_model` (of a graph: `load_graph`)
and the moment when all workers have loaded. What a module does while it is imported does not count.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import shoal

SOURCE = Path(shoal.__file__).parent
WAY = ("api", "cli", "executor", "launch", "machines", "measure", "planner")
"""Folders that decide and start. The others are what they use: readers of files, tokenizers, links, the scheduler."""


def files_crossed(run: Callable[[], object]) -> Counter[str]:
    """Calls by file of `src/shoal`, in all threads, while `run` runs."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>" and code.co_filename.startswith(str(SOURCE)):
            found[code.co_filename] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return Counter({str(Path(name).relative_to(SOURCE)): count for name, count in found.items()})


def load(model: str, split: str) -> object:
    """The loaded model. Close it."""
    if model.endswith(".onnx"):
        from shoal.cli.graphs.loading import load_graph
        from shoal.config import GraphLaunchConfig

        return load_graph(GraphLaunchConfig(model=model, split=split, in_process=False), quiet=True)
    from shoal.cli.language.loading import load_model
    from shoal.config import LaunchConfig

    return load_model(LaunchConfig(model=model, split=split, in_process=False), quiet=True)


def main(model: str, split: str = "pp=2") -> None:
    """Print the files by folder, and how many there are."""
    load(model, split).close()  # type: ignore[attr-defined]  # what is measured once is kept, and modules are imported
    loaded: list[Any] = []
    found = files_crossed(lambda: loaded.append(load(model, split)))
    loaded[0].close()
    folder = ""
    for name in sorted(found):
        if str(Path(name).parent) != folder:
            folder = str(Path(name).parent)
            print(f"{folder}/")
        print(f"    {Path(name).name} ({found[name]} calls)")
    num_on_way = sum(name.partition("/")[0] in WAY for name in found)
    print(f"{num_on_way} files of {', '.join(WAY)}; {len(found)} with all that they use")


if __name__ == "__main__":
    main(*sys.argv[1:])
