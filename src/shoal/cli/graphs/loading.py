"""Load an ONNX graph for a command: plan, show the plan, start the workers behind a progress bar."""

from __future__ import annotations

from pathlib import Path

from shoal.cli.graphs.files import read_arrays
from shoal.cli.shared.planned import PlanView, show_plan
from shoal.cli.show.graph_output import print_graph_plan
from shoal.cli.show.graph_plan_output import graph_choice_dict, print_graph_choice, print_graph_explanation
from shoal.cli.show.output import measuring, note, progress_bar
from shoal.config import GraphLaunchConfig
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.machines.machines import Machines
from shoal.model.graph.file.graph_file import GraphFile, open_graph
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
    show_plan(planned, GRAPH_VIEW, quiet=quiet)
    with progress_bar("loading") as update:
        return launch_graph(planned, update)


def open_with_inputs(model: str, inputs: Path | None) -> tuple[GraphFile, Tensors | None]:
    """The graph, and the arrays of a file for its inputs, if there is one. Raises ModelLoadError, ConfigError."""
    graph = open_graph(Path(model))
    return graph, None if inputs is None else read_arrays(inputs, graph.inputs)


def plan_for_command(
    config: GraphLaunchConfig,
    sample: Tensors | None = None,
    graph: GraphFile | None = None,
    *,
    quiet: bool,
    machines: Machines | None = None,
) -> PlannedGraph:
    """The planned graph; says when it measures, unless `quiet`, and where rows are not put together. For the rest see
    `plan_graph`."""
    with measuring(quiet=quiet) as tell:
        planned = plan_graph(config, sample, graph, on_progress=tell, machines=machines)
    note_batch(planned)
    return planned


def note_batch(planned: PlannedGraph) -> None:
    """Why the graph takes one request at a time, or what the user answers for."""
    if planned.note is not None:
        note(f"{planned.plan.model}: {planned.note}")


GRAPH_VIEW = PlanView(
    print_plan=print_graph_plan,
    print_choice=print_graph_choice,
    print_explanation=print_graph_explanation,
    choice_dict=graph_choice_dict,
)
