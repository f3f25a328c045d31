"""`shoal plan` for an ONNX graph."""

from __future__ import annotations

from pathlib import Path

from shoal.cli.graphs.files import read_arrays
from shoal.cli.graphs.loading import note_batch
from shoal.cli.shared.planned import note_left_out
from shoal.cli.show.graph_output import print_graph_plan
from shoal.cli.show.graph_plan_output import graph_choice_dict, print_graph_choice, print_graph_explanation
from shoal.cli.show.output import measuring, note, print_json
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError
from shoal.launch.graph.planning import plan_graph
from shoal.model.graph.file.graph_file import open_graph
from shoal.planner.files.plan_file import write_plan


def show_graph_plan(
    config: GraphLaunchConfig, *, inputs: Path | None, output: Path | None, explain: bool, as_json: bool
) -> None:
    """Measure this machine with the graph, choose a split, and say why. Raises ShoalError."""
    graph = open_graph(Path(config.model))
    given = None if inputs is None else read_arrays(inputs, graph.inputs)
    with measuring(quiet=as_json) as tell:
        planned = plan_graph(config, given, graph, on_progress=tell)
    note_batch(planned)
    note_left_out(planned.machines)
    planned.close()
    auto = planned.auto
    assert auto is not None
    if output is not None:
        try:
            output.write_text(write_plan(auto.plan))
        except OSError as error:
            raise ConfigError(f"-o {output}: cannot be written: {error.strerror or error}") from error
    if as_json:
        print_json(graph_choice_dict(auto))
        return
    print_graph_plan(auto.plan)
    print_graph_choice(auto)
    if explain:
        print_graph_explanation(auto)
    if output is not None:
        note(f"written to {output}; run it with --plan {output}")
