"""Load an ONNX graph for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.cli.shared.planned import note_left_out, note_threads
from shoal.cli.show.graph_output import print_graph_plan
from shoal.cli.show.graph_plan_output import print_graph_choice
from shoal.cli.show.output import measuring, note, progress_bar
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.model.graph.file.graph_file import GraphFile
from shoal.router.graph_executor import Tensors


def load_graph(
    config: GraphLaunchConfig,
    *,
    quiet: bool = False,
    sample: Tensors | None = None,
    graph: GraphFile | None = None,
) -> LoadedGraph:
    """The loaded graph; close it. `quiet` prints no plan, only warnings; `graph`: the file, if it is open already."""
    planned = plan_for_command(config, sample, graph, quiet=quiet)
    show_plan(planned, quiet=quiet)
    with progress_bar("loading") as update:
        return launch_graph(planned, update)


def plan_for_command(
    config: GraphLaunchConfig, sample: Tensors | None = None, graph: GraphFile | None = None, *, quiet: bool
) -> PlannedGraph:
    """The planned graph; says when it measures, unless `quiet`, and where rows are not put together."""
    with measuring(quiet=quiet) as tell:
        planned = plan_graph(config, sample, graph, on_progress=tell)
    note_batch(planned)
    return planned


def note_batch(planned: PlannedGraph) -> None:
    """Why the graph takes one request at a time, or what the user answers for."""
    if planned.note is not None:
        note(f"{planned.plan.model}: {planned.note}")


def show_plan(planned: PlannedGraph, *, quiet: bool) -> None:
    """The plan and why it was chosen, unless `quiet`, and what is likely not meant."""
    if not quiet:
        print_graph_plan(planned.plan)
        if planned.auto is not None:
            print_graph_choice(planned.auto)
    note_left_out(planned.machines)
    note_threads(planned.plan.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDims:
    """What `--batch-dim` says."""

    dims: Mapping[str, int | None]
    """axis by the name of an input or output; None: an input without rows"""
    is_batched: bool
    """whether there is a batch at all"""


def parse_batch_dims(items: Sequence[str] | None) -> BatchDims:
    """`--batch-dim NAME=AXIS`, `NAME=none` or `none`, repeated. Raises ConfigError."""
    axes: dict[str, int | None] = {}
    for item in items or ():
        name, _, axis = item.rpartition("=")
        if item == _NONE:
            continue
        if not name or not (axis == _NONE or axis.removeprefix("-").isdecimal()):
            raise ConfigError(f"--batch-dim {item}: give NAME=AXIS, such as state=1, NAME=none, or none")
        axes[name] = None if axis == _NONE else int(axis)
    is_batched = _NONE not in (items or ())
    if axes and not is_batched:
        raise ConfigError("--batch-dim none says that there is no batch; leave the other ones out")
    return BatchDims(dims=axes, is_batched=is_batched)


_NONE = "none"
