"""`shoal map`: an ONNX graph over many rows or files, offline."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli import options

if TYPE_CHECKING:
    from shoal.cluster.graph_launch import PlannedGraph
    from shoal.offline.map_job import MapJob, MapSummary
    from shoal.offline.work import Failure

EXAMPLE = "Example: shoal map model.onnx --inputs rows.npz -o out/ --split dp=2"

_MAX_NOTES = 20
"""Failures that are shown as they come; a person does not read more, and --json lists them."""

Model = Annotated[str, typer.Argument(help="An .onnx file.")]
Inputs = Annotated[
    Path,
    typer.Option(
        help="Rows: an .npz or .parquet file with the graph's input names, or an .npy file for a graph with one "
        "input. Or a folder: one .npy or .npz file for each item.",
        exists=True,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="A folder: an .npy file for each output (rows), or a file for each input file (folder). "
        "Or a .parquet file (rows).",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Rows that are computed at once. Default: chosen by the size of a row.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")]


def map_command(
    model: Model,
    inputs: Inputs,
    output: Output,
    split: options.Split = "1",
    batch_size: BatchSize = None,
    batch_dim: options.BatchDim = None,
    threads: options.Threads = None,
    resume: Resume = False,
    json: options.Json = False,
) -> None:
    """Compute a graph for every row of a file or every file of a folder. Exit status 1 where some could not be."""
    from shoal.cli.graph_loading import parse_batch_dims, show_plan
    from shoal.cli.graph_output import graph_plan_dict
    from shoal.cli.output import print_json
    from shoal.cluster.graph_launch import plan_graph
    from shoal.config import GraphLaunchConfig
    from shoal.model.graph.input_check import check_inputs
    from shoal.offline.map_job import MapOptions, open_map, prepare_output
    from shoal.router.graph_executor import Tensors

    map_options = MapOptions(inputs=inputs, output=output, batch_rows=batch_size, resume=resume)
    config = GraphLaunchConfig(model=model, split=split, threads=threads, batch_dims=parse_batch_dims(batch_dim or []))
    prepare_output(map_options)
    planned = plan_graph(config)
    plan = planned.plan

    def check(tensors: Tensors) -> Tensors:
        return check_inputs(plan.inputs, tensors, batch=plan.batch, convert=True)

    with open_map(map_options, plan, _files(planned), check) as job:
        show_plan(plan, quiet=json)
        summary = _run(job, planned, quiet=json)
    if json:
        print_json({"model": model, **_summary_dict(summary), "plan": graph_plan_dict(plan)})
    else:
        _print_summary(summary)
    if summary.num_failed:
        raise typer.Exit(1)


def _run(job: MapJob, planned: PlannedGraph, *, quiet: bool) -> MapSummary:
    """Start the workers, if there is anything to do, and compute."""
    from shoal.cli.output import note, progress_bar
    from shoal.cluster.graph_launch import launch_graph

    num_noted = 0

    def show(failure: Failure) -> None:
        nonlocal num_noted
        num_noted += 1
        if not quiet and num_noted <= _MAX_NOTES:
            note(f"failed: {failure.name}: {failure.reason}")

    with ExitStack() as workers:
        executors = ()
        if job.has_work:
            with progress_bar("loading") as update:
                executors = workers.enter_context(launch_graph(planned, update)).executors
        with progress_bar("computing") as update:
            return job.run(executors, on_progress=update, on_failure=show)


def _files(planned: PlannedGraph) -> list[Path]:
    """What the model consists of."""
    external = {
        entry.value
        for tensor in planned.graph.model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [planned.graph.path, *(planned.graph.path.parent / name for name in sorted(external))]


def _summary_dict(summary: MapSummary) -> dict[str, Any]:
    return {
        "unit": summary.unit,
        "total": summary.total,
        "done": summary.num_done,
        "done_before": summary.num_done_before,
        "failed": summary.num_failed,
        "failures": [{"name": failure.name, "reason": failure.reason} for failure in summary.failures],
        "elapsed_s": summary.elapsed_s,
        "per_s": _per_s(summary),
        "outputs": summary.outputs,
    }


def _print_summary(summary: MapSummary) -> None:
    from shoal.cli.output import note

    unit = summary.unit
    before = f", {summary.num_done_before} done before" if summary.num_done_before else ""
    failed = f", {summary.num_failed} failed" if summary.num_failed else ""
    note(
        f"{summary.num_done} {unit} in {summary.elapsed_s:.2f} s ({_per_s(summary):.1f} {unit}/s){before}{failed}"
        f" -> {', '.join(summary.outputs) or 'nothing'}"
    )


def _per_s(summary: MapSummary) -> float:
    return summary.num_done / summary.elapsed_s if summary.elapsed_s > 0 else 0.0
