"""`python -m tests.cli.map_with_killed_worker MODEL INPUTS OUT`: its first worker dies before its first chunk."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from shoal.config import GraphLaunchConfig
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.launch.graph.launch import launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.model.graph.sample.input_check import check_inputs
from shoal.offline.map_job import MapOptions, open_map, prepare_output
from shoal.offline.pull import ChunkRunner


def main(model: Path, inputs: Path, out: Path) -> None:
    options = MapOptions(inputs=inputs, output=out, batch_rows=4)
    prepare_output(options)
    planned = plan_graph(GraphLaunchConfig(model=str(model), split="dp=2", threads=1))
    plan = planned.plan
    with (
        open_map(options, plan, [model], lambda t: check_inputs(plan.inputs, t, batch=plan.batch, convert=True)) as job,
        launch_graph(planned) as loaded,
    ):
        first = loaded.executors[0]
        assert isinstance(first, PipelineExecutor)
        os.kill(first.worker_pids()[0], signal.SIGKILL)
        with ChunkRunner(loaded.executors) as runner:
            assert job.run(runner).num_done == 100


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
