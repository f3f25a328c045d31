"""`shoal map`: an ONNX graph over many rows or files, offline."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.checked_command import examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.api.chains import LoadedChain
    from shoal.chains.definition import Chain
    from shoal.config import GraphLaunchConfig
    from shoal.core.plan.graph import PredictedRows
    from shoal.launch.graph.planning import PlannedGraph
    from shoal.offline.map_job import MapJob, MapSummary
    from shoal.offline.work import Failure

EXAMPLE = examples("shoal map model.onnx --inputs rows.npz -o out/ --split dp=2")

_GRAPH_ONLY = ("plan", "batch_size", "batch_dim")
_MAX_NOTES = 20
"""Failures that are shown as they come; a person does not read more, and --json lists them."""
_FIRST_LIMIT_S = 60.0
"""A first chunk that takes longer is not measured with."""
_SLOTS_PER_WORKER = 2
"""Chunks that a whole copy has at once: one is computed, one lies ready."""

Model = Annotated[
    str, typer.Argument(help="An .onnx file, or a chain of models: a YAML file, or a folder with a chain.yaml.")
]
Given = Annotated[
    Path | None, typer.Argument(help="The same as --inputs.", metavar="[INPUTS]", exists=True, show_default=False)
]
Inputs = Annotated[
    Path | None,
    typer.Option(
        help="Rows: an .npz or .parquet file with the graph's input names, or an .npy file for a graph with one "
        "input. Or a folder with an .npy or .npz file for each item; for a chain, with any files, such as "
        "pictures.",
        exists=True,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Where to write the results. For rows: a .parquet file, or a folder, which gets an .npy file for "
        "each output. For a folder: a folder, which gets a file for each input file (for a chain, FILE.json).",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Rows that are computed at once. Default: it depends on the size of a row.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue where an earlier run stopped.")]


def map_command(
    context: typer.Context,
    model: Model,
    output: Output,
    given: Given = None,
    inputs: Inputs = None,
    split: options.Split = "auto",
    plan: options.PlanFile = None,
    batch_size: BatchSize = None,
    batch_dim: options.BatchDim = None,
    cluster: options.Cluster = None,
    threads: options.Threads = None,
    device: options.Device = None,
    provider_option: options.ProviderOption = None,
    device_memory: options.DeviceMemory = None,
    worker_python: options.WorkerPython = None,
    resume: Resume = False,
    log_level: options.LogLevel = "info",
    log_json: options.LogJson = False,
    json: options.Json = False,
) -> None:
    """Compute a graph for every row of a file or every file of a folder, or a chain for every file of a folder.

    The exit status is 1 if any row or file failed.
    """
    from shoal.cli.graphs.launch_config import graph_config
    from shoal.cli.graphs.loading import GRAPH_VIEW, plan_for_command
    from shoal.cli.shared.log import dated_log, plain_log
    from shoal.cli.shared.model_kind import is_chain
    from shoal.cli.shared.planned import show_plan
    from shoal.cli.show.graph_plan_output import predicted_dict
    from shoal.cli.show.output import print_json
    from shoal.config import DevicesConfig, PlanningConfig
    from shoal.model.graph.sample.input_check import check_inputs
    from shoal.offline.map_job import MapOptions, open_map, prepare_output
    from shoal.planner.files.plan_data import graph_plan_dict
    from shoal.planner.split.split_spec import AUTO
    from shoal.router.graph_executor import Tensors

    if log_json:
        dated_log(log_level, as_json=True)
    else:
        plain_log(log_level)
    inputs = _only(given, inputs)
    if is_chain(model):
        option_values.refuse(context, (*_GRAPH_ONLY, *options.DEVICE_OPTIONS), "a chain")
        from shoal.api.chains import LoadedChain

        load = partial(LoadedChain, split=split, threads=threads, cluster=option_values.text(cluster))
        summary = _map_chain(model, inputs, output, load, resume=resume, quiet=json)
        if json:
            print_json({"model": model, **_summary_dict(summary)})
        else:
            _print_summary(summary, None)
        if summary.num_failed:
            raise typer.Exit(1)
        return
    config = graph_config(context, model, objective="throughput")
    is_auto = split == AUTO and plan is None
    min_slots = _SLOTS_PER_WORKER * len(os.sched_getaffinity(0)) if is_auto else 1
    map_options = MapOptions(inputs=inputs, output=output, batch_rows=batch_size, min_slots=min_slots, resume=resume)
    prepare_output(map_options)
    planned = plan_for_command(
        replace(config, split="1", planning=PlanningConfig(), devices=DevicesConfig()) if is_auto else config,
        quiet=json,
    )
    found = planned.plan

    def check(tensors: Tensors) -> Tensors:
        defaults = planned.graph.defaults
        return check_inputs(found.inputs, tensors, defaults=defaults, batch=found.batch, convert=True)

    with open_map(map_options, found, _files(planned), check) as job:
        if is_auto and job.has_work:
            planned = _plan_for(job, config, planned, quiet=json)
        show_plan(planned, GRAPH_VIEW, quiet=json)
        summary = _run(job, planned, quiet=json)
    predicted = planned.plan.predicted
    if json:
        figures = {**_summary_dict(summary), "predicted": predicted_dict(predicted)}
        print_json({"model": model, **figures, "plan": graph_plan_dict(planned.plan)})
    else:
        _print_summary(summary, predicted)
    if summary.num_failed:
        raise typer.Exit(1)


def _only(given: Path | None, inputs: Path | None) -> Path:
    """The inputs, however they were named. Raises ConfigError."""
    from shoal.errors import ConfigError

    if (given is None) == (inputs is None):
        raise ConfigError(
            "give the inputs once: shoal map MODEL INPUTS -o OUT, or shoal map MODEL --inputs INPUTS -o OUT"
        )
    found = given or inputs
    assert found is not None
    return found


def _map_chain(
    model: str, inputs: Path, output: Path, load: Callable[[Chain], LoadedChain], *, resume: bool, quiet: bool
) -> MapSummary:
    """Load a chain and compute it for every file of a folder."""
    from shoal.chains.definition import read_chain
    from shoal.chains.steps import InputKind
    from shoal.chains.values import input_of_file
    from shoal.cli.show.output import note, progress_bar
    from shoal.errors import ConfigError
    from shoal.offline.chain_map import ChainMap
    from shoal.offline.files.fingerprint import fingerprint

    chain = read_chain(model)
    if len(chain.inputs) > 1 or InputKind.TENSOR in chain.inputs.values():
        raise ConfigError(
            f"{model} cannot be mapped over files: for that it must have exactly one input, a file or a text"
        )
    ((name, kind),) = chain.inputs.items()
    work = ChainMap(inputs=inputs, output=output, identity=fingerprint(chain.files), resume=resume)
    work.check()
    with load(chain) as loaded, progress_bar("computing") as update:
        return work.run(
            lambda content: loaded.submit({name: input_of_file(kind, name, content)}),
            on_progress=update,
            on_failure=lambda failure: None if quiet else note(f"failed: {failure.name}: {failure.reason}"),
        )


def _plan_for(job: MapJob, config: GraphLaunchConfig, whole: PlannedGraph, *, quiet: bool) -> PlannedGraph:
    """The split for chunks like the first one: for its very rows, if the graph runs on them."""
    from shoal.cli.graphs.loading import plan_for_command
    from shoal.errors import RequestError
    from shoal.router.rows import count_rows

    first = job.first_inputs
    if first is None:
        return plan_for_command(config, graph=whole.graph, quiet=quiet)
    config = replace(config, micro_batch=count_rows(first, whole.plan.batch))
    if whole.whole is not None:
        try:
            whole.whole.run(first, _FIRST_LIMIT_S)
        except RequestError:
            first = None  # a row that cannot be computed says nothing of the others
    return plan_for_command(config, first, whole.graph, quiet=quiet)


def _run(job: MapJob, planned: PlannedGraph, *, quiet: bool) -> MapSummary:
    """Start the workers, if there is anything to do, and compute."""
    from shoal.api.graphs import open_runner
    from shoal.cli.show.output import note, progress_bar
    from shoal.launch.graph.launch import launch_graph
    from shoal.offline.pull import ChunkRunner

    num_noted = 0

    def show(failure: Failure) -> None:
        nonlocal num_noted
        num_noted += 1
        if not quiet and num_noted <= _MAX_NOTES:
            note(f"failed: {failure.name}: {failure.reason}")

    with ExitStack() as workers:
        runner = ChunkRunner(())
        if job.has_work:
            with progress_bar("loading") as update:
                loaded = workers.enter_context(launch_graph(planned, update))
            runner = open_runner(loaded)
        workers.enter_context(runner)
        with progress_bar("computing") as update:
            return job.run(runner, on_progress=update, on_failure=show)


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


def _print_summary(summary: MapSummary, predicted: PredictedRows | None) -> None:
    from shoal.cli.show.graph_plan_output import describe_error
    from shoal.cli.show.output import note

    unit = summary.unit
    before = f", {summary.num_done_before} done before" if summary.num_done_before else ""
    failed = f", {summary.num_failed} failed" if summary.num_failed else ""
    error = describe_error(predicted, _per_s(summary)) if unit == "rows" else ""
    note(
        f"{summary.num_done} {unit} in {summary.elapsed_s:.2f} s ({_per_s(summary):.1f} {unit}/s{error})"
        f"{before}{failed} -> {', '.join(summary.outputs) or 'nothing'}"
    )


def _per_s(summary: MapSummary) -> float:
    return summary.num_done / summary.elapsed_s if summary.elapsed_s > 0 else 0.0
