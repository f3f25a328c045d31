"""A map that is killed while it computes its eighth chunk: `python -m tests.offline.killed_map FOLDER INPUTS`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from shoal.arrays import Array
from shoal.router.graph_executor import Tensors
from tests.offline.fake_graphs import InlineExecutor
from tests.offline.map_cases import Job, affine

NUM_CHUNKS = 8


def main(folder: Path, inputs: Path) -> None:
    num_chunks = 0

    def compute(tensors: Tensors) -> dict[str, Array]:
        nonlocal num_chunks
        num_chunks += 1
        if num_chunks == NUM_CHUNKS:
            os.kill(os.getpid(), signal.SIGKILL)
        return affine(tensors)

    Job(folder).run(inputs, executors=[InlineExecutor(compute)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
